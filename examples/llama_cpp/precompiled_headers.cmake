# Included by the build of llama.cpp that examples/install_llama_cpp starts. It has about 200 files
# for models, which take a third of the time if their common header is compiled once.
cmake_language(DEFER CALL target_precompile_headers llama PRIVATE
               "${CMAKE_SOURCE_DIR}/src/models/models.h")
cmake_language(DEFER CALL target_precompile_headers mtmd PRIVATE
               "${CMAKE_SOURCE_DIR}/tools/mtmd/models/models.h")
