# Included by the build of llama.cpp that examples/install_llama_cpp starts. It has about 150 files
# for models, which take half of the time if their common header is compiled once. What does no
# arithmetic of a model is optimized little and several of its files are compiled as one: the compiler
# takes a quarter of the time for it.
cmake_language(DEFER CALL target_precompile_headers llama PRIVATE
               "${CMAKE_SOURCE_DIR}/src/models/models.h")
function(compile_together)
  foreach(target cpp-httplib llama-common mtmd server-context llama-server-impl)
    target_compile_options(${target} PRIVATE -O1)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON)
  endforeach()
  # The former two define what others define, the latter refuse internal headers before them.
  set_source_files_properties(${CMAKE_SOURCE_DIR}/common/chat.cpp ${CMAKE_SOURCE_DIR}/common/json.cpp
                              TARGET_DIRECTORY llama-common
                              PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/tools/mtmd/mtmd-helper.cpp
                              ${CMAKE_SOURCE_DIR}/tools/mtmd/mtmd-helper-gen.cpp
                              TARGET_DIRECTORY mtmd PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()
cmake_language(DEFER CALL compile_together)
