// The headers are found, and what needs no cache works: succeeds if an error says what is wrong.
#include <cstring>
#include <squat/squat.hpp>

int main() {
  try {
    squat::Config::recommended(/*mean_bits=*/9);
  } catch (const squat::Error& error) {
    return std::strstr(error.what(), "mean_bits is 9;") == nullptr;
  }
  return 1;
}
