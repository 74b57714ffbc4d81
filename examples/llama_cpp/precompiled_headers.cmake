# Included by the build of llama.cpp that examples/install_llama_cpp starts. It has about 150 files
# for models, which take half of the time if their common header is compiled once.
cmake_language(DEFER CALL target_precompile_headers llama PRIVATE
               "${CMAKE_SOURCE_DIR}/src/models/models.h")
