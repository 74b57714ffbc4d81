// Writes the GGUF file of a tiny model, for programs of llama.cpp:
//
//   squat_write_tiny_model ARCHITECTURE FILE
#include <exception>
#include <iostream>

#include "tiny_model.hpp"

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: squat_write_tiny_model ARCHITECTURE FILE\n";
    return 1;
  }
  try {
    squat::testing::TinyModel model;
    model.architecture = arguments[1];
    model.vocabulary = 1024;
    squat::testing::write_tiny_model(model, arguments[2]);
  } catch (const std::exception& error) {
    std::cerr << "squat_write_tiny_model: " << error.what() << "\n";
    return 1;
  }
}
