// Which mutant is in use, and which ones a test meets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace squat_mutants {

const int active =
    std::getenv("SQUAT_MUTANT") == nullptr ? 0 : std::atoi(std::getenv("SQUAT_MUTANT"));
unsigned char met[1 << 16];

namespace {

/// Writes a line for each test into the file SQUAT_MET: its name, milliseconds, the mutants it met.
class Notes : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo& test) override {
    const char* const path = std::getenv("SQUAT_MET");
    std::FILE* const file = path == nullptr ? nullptr : std::fopen(path, "a");
    if (file == nullptr) return;
    std::fprintf(file, "%s.%s %lld", test.test_suite_name(), test.name(),
                 static_cast<long long>(test.result()->elapsed_time()));
    for (int mutant = 0; mutant < int{sizeof met}; ++mutant)
      if (met[mutant]) std::fprintf(file, " %d", mutant);
    std::fprintf(file, "\n");
    std::fclose(file);
    std::fill(std::begin(met), std::end(met), static_cast<unsigned char>(0));
  }
};

const bool listens = [] {
  if (active < 0) testing::UnitTest::GetInstance()->listeners().Append(new Notes);
  return true;
}();

}  // namespace
}  // namespace squat_mutants
