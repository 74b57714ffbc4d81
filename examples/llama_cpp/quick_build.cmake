# Included by the build of llama.cpp that examples/install_llama_cpp starts. It has about 150 files
# for models, which take half of the time if their common header is compiled once. What does no
# arithmetic is optimized little: the compiler takes a third less time for it.
cmake_language(DEFER CALL target_precompile_headers llama PRIVATE
               "${CMAKE_SOURCE_DIR}/src/models/models.h")
function(optimize_little)
  foreach(target cpp-httplib llama-common server-context llama-server-impl)
    if(TARGET ${target})
      target_compile_options(${target} PRIVATE -O1)
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL optimize_little)
