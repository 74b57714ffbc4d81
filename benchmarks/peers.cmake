# The comparison with ggml and, where SQUAT_IK_LLAMA_DIR names its folder, ik_llama.cpp.
# benchmarks/install_peers builds both for this machine and prints what to pass.
find_package(ggml CONFIG QUIET)
find_package(CLI11 CONFIG QUIET)
find_package(nlohmann_json CONFIG QUIET)
foreach(package ggml CLI11 nlohmann_json)
  if(NOT ${package}_FOUND)
    message(STATUS "The comparison with ggml is not built: ${package} was not found. "
                   "benchmarks/install_peers builds ggml and prints what to pass; "
                   "Debian has the others as libcli11-dev and nlohmann-json3-dev.")
    return()
  endif()
endforeach()

set(SQUAT_IK_LLAMA_DIR "" CACHE PATH "Folder with ik_llama.cpp's ggml: include, lib/libggml.a")
if(SQUAT_IK_LLAMA_DIR)
  add_library(squat_ik_peer SHARED ik_peer.cpp)
  target_compile_features(squat_ik_peer PRIVATE cxx_std_17)
  target_include_directories(squat_ik_peer SYSTEM PRIVATE "${SQUAT_IK_LLAMA_DIR}/include")
  find_package(Threads REQUIRED)
  # Its functions have the names of ggml's: outside the library nobody may see them.
  target_link_libraries(squat_ik_peer PRIVATE "-Wl,--exclude-libs,ALL"
                        "${SQUAT_IK_LLAMA_DIR}/lib/libggml.a" Threads::Threads)
endif()

foreach(program attention_report peer_check)
  add_executable(${program} ${program}.cpp)
  target_link_libraries(${program} PRIVATE squat_development ggml::ggml CLI11::CLI11
                                           nlohmann_json::nlohmann_json)
  if(SQUAT_IK_LLAMA_DIR)
    target_compile_definitions(${program} PRIVATE SQUAT_HAS_IK_PEER)
    target_link_libraries(${program} PRIVATE squat_ik_peer)
  endif()
endforeach()
