# Programs of llama.cpp, as they are, on a SQuat cache. Included where these are set:
#   SQUAT_LLAMA_CPP_PROGRAMS  folder with llama-server and libsquat_llama.so
#   SQUAT_TEST_MODEL          GGUF file of a model with a chat template
# Both take all cores: ggml's threads wait by spinning.
set(serial PROCESSORS 2 TIMEOUT 900)
add_test(NAME llama_cpp.server
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/server_test.py
                 ${SQUAT_LLAMA_CPP_PROGRAMS} ${SQUAT_TEST_MODEL} squat:2.5 --requests 12
                 --context 2048)
add_test(NAME llama_cpp.server_shift
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/server_test.py
                 ${SQUAT_LLAMA_CPP_PROGRAMS} ${SQUAT_TEST_MODEL} squat:2.5 --requests 1 --slots 1
                 --context 512 --checks shift -- --context-shift --cache-reuse 16)
add_test(NAME llama_cpp.server_draft
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/server_draft_test.py
                 ${SQUAT_LLAMA_CPP_PROGRAMS} ${SQUAT_TEST_MODEL} squat:8 --context 1024
                 --threads 1)
# Recurrent layers, which go back to checkpoints. (A slot restored from its file has none, in
# llama.cpp either.)
set(hybrid_model ${CMAKE_CURRENT_BINARY_DIR}/lfm2.gguf)
add_test(NAME llama_cpp.server_hybrid_model COMMAND squat_write_tiny_model lfm2 ${hybrid_model})
set_tests_properties(llama_cpp.server_hybrid_model PROPERTIES FIXTURES_SETUP hybrid_model)
add_test(NAME llama_cpp.server_hybrid
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/server_test.py
                 ${SQUAT_LLAMA_CPP_PROGRAMS} ${hybrid_model} squat:8 --requests 12 --context 2048
                 --threads 1 --checks overflow crowd samples)
set_tests_properties(llama_cpp.server llama_cpp.server_shift llama_cpp.server_draft
                     llama_cpp.server_hybrid PROPERTIES ${serial})
set_tests_properties(llama_cpp.server_hybrid PROPERTIES FIXTURES_REQUIRED hybrid_model)

# It takes llama-cpp-python from PyPI when it runs for the first time, which is made for a llama.h
# with llama_process.
if(SQUAT_LLAMA_HAS_PROCESS)
  add_test(NAME llama_cpp.python_chat
           COMMAND ${CMAKE_CURRENT_LIST_DIR}/python_chat_test
                   $<TARGET_FILE_DIR:squat_llama_replacement> ${SQUAT_TEST_MODEL})
  set_tests_properties(llama_cpp.python_chat PROPERTIES ${serial})
endif()

# The smallest case of the table that the command makes. Caches of 2.5 bits are far below this bound,
# and what is wrong is far above.
add_test(NAME llama_cpp.divergence
         COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/examples/llama_cpp/divergence
                 --programs ${SQUAT_LLAMA_CPP_PROGRAMS} -c 512 --chunks 1
                 ${SQUAT_TEST_MODEL} ${PROJECT_SOURCE_DIR}/README.md squat:2.5)
set_tests_properties(llama_cpp.divergence PROPERTIES ${serial}
                     PASS_REGULAR_EXPRESSION "squat:2.5` [|] [0-9.]+ [|] [0-9.]+% [|] 0[.]0[0-4]")
