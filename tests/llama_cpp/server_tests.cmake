# Programs of llama.cpp, as they are, on a SQuat cache. Included where these are set:
#   SQUAT_LLAMA_CPP_PROGRAMS  folder with llama-server and libsquat_llama.so
#   SQUAT_TEST_MODEL          GGUF file of a model with a chat template
find_package(Python3 REQUIRED COMPONENTS Interpreter)

# Both take all cores: ggml's threads wait by spinning.
set(serial PROCESSORS 2 TIMEOUT 900)
add_test(NAME llama_cpp.server
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/server_test.py
                 ${SQUAT_LLAMA_CPP_PROGRAMS} ${SQUAT_TEST_MODEL} squat:2.5 --requests 12
                 --context 2048)
set_tests_properties(llama_cpp.server PROPERTIES ${serial})

# It takes llama-cpp-python from PyPI when it runs for the first time.
if(TARGET squat_llama_replacement)
  add_test(NAME llama_cpp.python_chat
           COMMAND ${CMAKE_CURRENT_LIST_DIR}/python_chat_test
                   $<TARGET_FILE_DIR:squat_llama_replacement> ${SQUAT_TEST_MODEL})
  set_tests_properties(llama_cpp.python_chat PROPERTIES ${serial})
endif()
