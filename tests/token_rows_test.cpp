// Rows that are not packed, in 8 and 16 bits.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <squat/detail/store/token_rows.hpp>

#include "random_matrix.hpp"

namespace squat::testing::token_rows {
namespace {

using namespace detail;

constexpr Index heads = 3, width = 40;  // a group of 32 numbers and one of 8

Matrix<float> read_all(const TokenRows<float>& rows) {
  Matrix<float> all(rows.size(), heads * width);
  for (Index row = 0; row < rows.size(); ++row)
    for (Index head = 0; head < heads; ++head)
      rows.read(row, head, width, all.row(row).data() + head * width);
  return all;
}

TokenRows<float> rows_of(const Matrix<float>& numbers, int bits) {
  TokenRows<float> rows(heads, width, bits);
  rows.reserve(numbers.rows());
  for (Index row = 0; row < numbers.rows(); ++row) rows.append(numbers.row(row).data());
  return rows;
}

/// Whether every number is within a part of the largest of its group.
void expect_near(const Matrix<float>& a, const Matrix<float>& b, float part) {
  for (Index row = 0; row < a.rows(); ++row)
    for (Index head = 0; head < a.cols() / width; ++head)
      for (const auto& [first, count] : {std::pair<Index, Index>{0, 32}, {32, 8}}) {
        const auto x = a.row(row).segment(head * width + first, count);
        const auto y = b.row(row).segment(head * width + first, count);
        EXPECT_LE((x - y).cwiseAbs().maxCoeff(), part * y.cwiseAbs().maxCoeff());
      }
}

TEST(TokenRows, RoundToTheNearestOf127AndOf32767) {
  const Matrix<float> numbers = random_matrix<float>(20, heads * width, 1);
  EXPECT_EQ(read_all(rows_of(numbers, 0)), numbers);
  // Half a step, and a scale is up to a part of 128 larger than it had to be.
  expect_near(read_all(rows_of(numbers, 16)), numbers, 0.51f / 32767);
  TokenRows<float> rows = rows_of(numbers, 8);
  expect_near(read_all(rows), numbers, 0.51f / 32767);
  rows.settle();
  expect_near(read_all(rows), numbers, 0.51f / 127);
  EXPECT_GT((read_all(rows) - numbers).cwiseAbs().maxCoeff(), 0.4f / 127);
  EXPECT_LE(rows.bytes(), 24 * (heads * width + heads * 2 * 2) + 4 * 24 * heads * width);
  rows.shrink();
  EXPECT_LE(rows.bytes(), 24 * (heads * width + heads * 2 * 2));
}

TEST(TokenRows, WhatIsPackedDoesNotDependOnWhen) {
  TokenRows<float> rows = rows_of(random_matrix<float>(20, heads * width, 2), 8);
  Matrix<float> early(20, heads * width), late(20, heads * width);
  for (Index row = 0; row < 20; ++row) rows.read_settled(row, early.row(row).data());
  rows.settle();
  for (Index row = 0; row < 20; ++row) rows.read_settled(row, late.row(row).data());
  EXPECT_EQ(early, late);
  EXPECT_EQ(late, read_all(rows));
}

TEST(TokenRows, KeepSixteenBitsWhereEightWouldRuinOtherNumbers) {
  Matrix<float> numbers = random_matrix<float>(10, heads * width, 5);
  numbers(4, width + 3) = 400;  // of the second head
  TokenRows<float> rows = rows_of(numbers, 8);
  const auto settled = [&] {
    Matrix<float> all(rows.size(), heads * width);
    for (Index row = 0; row < rows.size(); ++row) rows.read_settled(row, all.row(row).data());
    return all;
  };
  const Matrix<float> before = settled();
  rows.settle();
  EXPECT_EQ(rows.settled(), 4);
  EXPECT_EQ(settled(), before);
  expect_near(before.row(4).middleCols(width, width), numbers.row(4).middleCols(width, width),
              0.51f / 32767);
  // Those behind it have 8 bits once it is gone, and count as such before.
  TokenRows<float> copied = rows.like();
  copied.reserve(1);
  copied.append_zeros(1);
  copied.copy(0, rows, 2);
  expect_near(read_all(copied), before.row(2), 0.51f / 32767);
  rows.pop_front(5);
  rows.settle();
  EXPECT_EQ(rows.settled(), 5);
  EXPECT_EQ(read_all(rows), before.bottomRows(5));
}

TEST(TokenRows, AreTheSameForNumbersTimesAPowerOfTwo) {
  const Matrix<float> numbers = random_matrix<float>(4, heads * width, 3);
  for (const int bits : {8, 16}) {
    TokenRows<float> rows = rows_of(numbers, bits);
    rows.settle();
    for (const int power : {-100, -20, 20, 100}) {
      const float factor = std::ldexp(1.0f, power);
      TokenRows<float> scaled = rows_of(numbers * factor, bits);
      scaled.settle();
      EXPECT_EQ(read_all(scaled), read_all(rows) * factor);
    }
  }
}

TEST(TokenRows, HoldWhatIsZeroTinyOrHuge) {
  Matrix<float> numbers = Matrix<float>::Zero(3, heads * width);
  numbers.row(1).setConstant(std::numeric_limits<float>::denorm_min());
  numbers.row(2).setConstant(-1e18f);
  for (const int bits : {8, 16}) {
    TokenRows<float> rows = rows_of(numbers, bits);
    rows.settle();
    const Matrix<float> stored = read_all(rows);
    EXPECT_TRUE(stored.allFinite());
    EXPECT_TRUE(stored.row(0).isZero(0));
    EXPECT_LE(stored.row(1).cwiseAbs().maxCoeff(), std::numeric_limits<float>::min());
    expect_near(stored.bottomRows(1), numbers.bottomRows(1), 0.01f);
  }
}

TEST(TokenRows, LeaveAndAreCutAcrossSettledAndNewOnes) {
  const Matrix<float> numbers = random_matrix<float>(30, heads * width, 4);
  const auto check = [&](const auto& change, std::vector<Index> kept) {
    TokenRows<float> rows = rows_of(numbers.topRows(10), 8);
    rows.settle();
    rows.reserve(20);
    for (Index row = 10; row < 30; ++row) rows.append(numbers.row(row).data());
    change(rows);
    ASSERT_EQ(rows.size(), static_cast<Index>(kept.size()));
    const Matrix<float> left = read_all(rows);
    for (std::size_t i = 0; i < kept.size(); ++i)
      expect_near(left.row(static_cast<Index>(i)), numbers.row(kept[i]), 0.01f);
  };
  check([](auto& rows) { rows.pop_front(27); }, {27, 28, 29});
  check([](auto& rows) { rows.truncate(2); }, {0, 1});
  check(
      [](auto& rows) {
        rows.truncate(12);
        rows.erase(1, 11);
      },
      {0, 11});
  check(
      [](auto& rows) {
        rows.truncate(12);
        rows.pop_front(9);
        rows.settle();
      },
      {9, 10, 11});
}

}  // namespace
}  // namespace squat::testing::token_rows
