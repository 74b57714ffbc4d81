// README.md quotes a program that is compiled.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

namespace {

std::string read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Readme, QuotesTheAttentionLoopAsItIs) {
  const std::string root = SQUAT_TEST_DATA "/../../";
  const std::string program = read(root + "examples/attention_loop.cpp");
  const std::string begin = "// README begins\n", end = "// README ends\n";
  ASSERT_NE(program.find(begin), std::string::npos);
  ASSERT_NE(program.find(end), std::string::npos);
  const std::size_t first = program.find(begin) + begin.size();
  const std::string quoted = program.substr(first, program.find(end) - first);
  EXPECT_NE(read(root + "README.md").find("```cpp\n" + quoted + "```\n"), std::string::npos)
      << "README.md lacks this block:\n"
      << quoted;
}

}  // namespace
