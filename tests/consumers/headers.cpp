// The headers are found, and what needs no cache works: succeeds if an error says what is wrong.
#include <cstring>
#include <squat/squat.hpp>

int main() {
  try {
    squat::check(squat::ModelShape{/*layers=*/1, /*query_heads=*/3, /*kv_heads=*/2, 64});
  } catch (const squat::Error& error) {
    return std::strstr(error.what(), "shape.query_heads is 3;") == nullptr;
  }
  return 1;
}
