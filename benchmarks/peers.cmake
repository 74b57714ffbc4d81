# The comparison with ggml. benchmarks/install_peers builds ggml for this machine and prints ggml_DIR.
find_package(ggml CONFIG QUIET)
find_package(CLI11 CONFIG QUIET)
find_package(nlohmann_json CONFIG QUIET)
foreach(package ggml CLI11 nlohmann_json)
  if(NOT ${package}_FOUND)
    message(STATUS "The comparison with ggml is not built: ${package} was not found. "
                   "benchmarks/install_peers builds ggml and prints what to pass as -Dggml_DIR; "
                   "Debian has the others as libcli11-dev and nlohmann-json3-dev.")
    return()
  endif()
endforeach()

foreach(program attention_report ggml_peer_check)
  add_executable(${program} ${program}.cpp)
  target_link_libraries(${program} PRIVATE squat_development ggml::ggml CLI11::CLI11
                                           nlohmann_json::nlohmann_json)
endforeach()
