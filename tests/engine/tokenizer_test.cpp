// Text to tokens.
#include "tokenizer.hpp"

#include <gtest/gtest.h>

#include "test_model.hpp"

namespace squat_llama {
namespace {

TEST(Tokenizer, AgreesWithTheTokenizersPackage) {
  SKIP_WITHOUT_MODEL();
  const std::vector<int> expected = test::tokens();
  const std::vector<int> actual = Tokenizer(test::model_path()).encode(test::text());
  EXPECT_EQ(actual, std::vector<int>(expected.begin() + 1, expected.end()));
}

TEST(Tokenizer, TokensSpellTheText) {
  SKIP_WITHOUT_MODEL();
  const Tokenizer tokenizer(test::model_path());
  const std::string text =
      test::text() + " \xc3\xa9t\xc3\xa9 \xe6\xbc\xa2 \xf0\x9f\x90\xbf\n\n\tx  y";
  std::string spelled;
  for (const int token : tokenizer.encode(text)) spelled += tokenizer.decode(token);
  EXPECT_EQ(spelled, text);
}

TEST(Tokenizer, ChatEndsWhereTheAnswerBegins) {
  SKIP_WITHOUT_MODEL();
  const Tokenizer tokenizer(test::model_path());
  EXPECT_EQ(tokenizer.chat("Hello"), "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
  const std::vector<int> end = tokenizer.encode("<|im_end|>", /*parse_special=*/true);
  ASSERT_EQ(end.size(), 1u);
  EXPECT_TRUE(tokenizer.ends_generation(end.front()));
  EXPECT_GT(tokenizer.encode("<|im_end|>").size(), 1u);
}

TEST(Tokenizer, NamesAFileThatIsNotAModel) {
  EXPECT_THROW(Tokenizer(test::data_path("jargon.txt")), std::runtime_error);
}

}  // namespace
}  // namespace squat_llama
