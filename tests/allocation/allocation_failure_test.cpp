// A cache that runs out of memory in the middle of a call is as it was before.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "../saved_cache.hpp"
#include "../small_cache.hpp"
#include "failing_allocator.hpp"

namespace squat::testing {
namespace {

using Call = std::function<void(Cache&)>;

const Tokens& tokens() {
  static const Tokens all(400, 1);
  return all;
}

/// A cache of two sequences, each with a subspace of its own.
Cache make_cache(Config config = strong_feedback(), Index window = 0) {
  config.shared_svd = false;
  config.full_precision_tokens = 1;
  ModelShape windowed = shape;
  windowed.window = window;
  windowed.rope.pairing = RopePairing::halves;
  windowed.rope.is_applied = true;
  return Cache(windowed, config, 2);
}

/// What a cache holds and answers.
struct Contents {
  explicit Contents(const Cache& cache) {
    for (Index s = 0; s < cache.sequences(); ++s) {
      firsts.push_back(cache.first(0, sequence(s)));
      parts.push_back(cache.keys(0, sequence(s)));
      parts.push_back(cache.values(0, sequence(s)));
      if (cache.size(0, sequence(s)) > 0)
        parts.push_back(attend(cache, tokens().queries.topRows(1), sequence(s)));
    }
  }
  bool operator==(const Contents& other) const {
    return firsts == other.firsts &&
           std::equal(parts.begin(), parts.end(), other.parts.begin(), other.parts.end(),
                      [](const Rows& a, const Rows& b) { return same(a, b); });
  }
  std::vector<Index> firsts;
  std::vector<Rows> parts;
};

/// Contents of a cache of `config` after `calls`.
Contents contents_after(const Config& config, Index window, const std::vector<Call>& calls) {
  Cache cache = make_cache(config, window);
  for (const Call& call : calls) call(cache);
  return Contents(cache);
}

/// Packs, so that the subspace shows.
void flush(Cache& cache) { cache.flush(0); }
void flush_all(Cache& cache) {
  for (Index s = 0; s < cache.sequences(); ++s) cache.flush(0, sequence(s));
}

/// Lets `call` run out of memory at its first allocation, at its second, and so on until it has
/// enough. Returns how often it ran out.
int run_out_of_memory(const Call& prepare, const Call& call, Index window = 0,
                      const Config& config = strong_feedback()) {
  const Contents before = contents_after(config, window, {prepare});
  const Contents flushed = contents_after(config, window, {prepare, flush_all});
  const Contents after = contents_after(config, window, {prepare, call, flush_all});
  for (int failures = 0; failures < 10000; ++failures)
    for (const bool again : {false, true}) {
      SCOPED_TRACE("after " + std::to_string(failures) + " allocations");
      Cache cache = make_cache(config, window);
      prepare(cache);
      bool failed = false;
      allow_allocations(failures);
      try {
        call(cache);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      allow_allocations(-1);
      if (failed) {
        EXPECT_TRUE(Contents(cache) == before);
        if (again) call(cache);
      }
      flush_all(cache);
      EXPECT_TRUE(Contents(cache) == (failed && !again ? flushed : after));
      if (!failed || ::testing::Test::HasFailure()) return failures;
    }
  ADD_FAILURE() << "never succeeds";
  return 0;
}

void nothing(Cache&) {}
void short_chunk(Cache& cache) { update(cache, tokens(), 0, 20); }
void prompt(Cache& cache) { update(cache, tokens(), 0, 200); }

TEST(AllocationFailure, LeavesAnEmptyCacheEmpty) {
  EXPECT_GT(run_out_of_memory(nothing, prompt), 5);
}

TEST(AllocationFailure, LeavesUpdateUndone) {
  // The update has the prompt to pack.
  EXPECT_GT(run_out_of_memory(prompt, [](Cache& cache) { update(cache, tokens(), 200, 150); }), 20);
}

TEST(AllocationFailure, LeavesAccumulationUndone) {
  const auto accumulate = [](Cache& cache) {
    CallOptions options;
    options.fit = FitQueries::accumulate;
    update(cache, tokens(), 20, 80, options);
  };
  EXPECT_GT(run_out_of_memory(short_chunk, accumulate), 5);
}

TEST(AllocationFailure, LeavesFlushUndone) { EXPECT_GT(run_out_of_memory(prompt, flush), 20); }

TEST(AllocationFailure, DropsNothingBehindAWindow) {
  const auto dropped = [](Cache& cache) {
    prompt(cache);
    flush(cache);
    update(cache, tokens(), 200, 150);
  };
  EXPECT_GT(run_out_of_memory(dropped, flush, 50), 5);
  EXPECT_GT(run_out_of_memory(
                dropped, [](Cache& cache) { cache.fork(0, 1); }, 50),
            5);
}

TEST(AllocationFailure, LeavesMovesUndone) {
  const auto packed = [](Cache& cache) {
    prompt(cache);
    flush(cache);
  };
  const auto with_gap = [&](Cache& cache) {
    packed(cache);
    cache.erase({10, 150});
  };
  EXPECT_GT(run_out_of_memory(packed, [](Cache& cache) { cache.erase({10, 150}); }), 5);
  EXPECT_GT(run_out_of_memory(with_gap, [](Cache& cache) { cache.shift({150, 200}, -140); }), 5);
}

TEST(AllocationFailure, LeavesForkUndone) {
  const auto two = [](Cache& cache) {
    prompt(cache);
    flush(cache);
    update(cache, tokens(), 200, 50, sequence(1));
  };
  EXPECT_GT(run_out_of_memory(two, [](Cache& cache) { cache.fork(0, 1); }), 5);
}

TEST(AllocationFailure, LeavesWhatForksShareUndone) {
  const auto forked = [](Cache& cache) {
    prompt(cache);
    flush(cache);
    cache.fork(0, 1);
    update(cache, tokens(), 200, 150, sequence(1));
  };
  EXPECT_GT(run_out_of_memory(forked, [](Cache& cache) { cache.flush(0, sequence(1)); }), 10);
}

TEST(Allocation, OfAttendHappensOnceAndBeforeItsTasks) {
  Cache cache = make_cache();
  prompt(cache);
  flush(cache);
  for (const Index rows : {1, 30}) {
    const Rows queries = tokens().queries.topRows(rows);
    const Rows expected = attend(cache, queries);
    Rows out(rows, query_width);
    allow_allocations(0);
    EXPECT_NO_THROW(cache.attend(0, queries, out));
    allow_allocations(-1);
    EXPECT_TRUE(same(out, expected));
  }
}

TEST(AllocationFailure, LeavesAttendToBeCalledAgain) {
  for (const Index rows : {1, 30}) {
    const Rows queries = tokens().queries.topRows(rows);
    EXPECT_GT(run_out_of_memory(prompt,
                                [&](Cache& cache) {
                                  Rows out(rows, query_width);
                                  cache.attend(0, queries, out);
                                }),
              3);
  }
}

/// A file of what `call` leaves in a cache of two sequences.
std::string file_after(const Call& call) {
  Cache cache = make_cache(strong_feedback());
  call(cache);
  return saved(cache);
}

TEST(AllocationFailure, LeavesLoadUndone) {
  const std::string file = file_after([](Cache& cache) {
    update(cache, tokens(), 100, 150);
    flush(cache);
    cache.fork(0, 1);
    update(cache, tokens(), 200, 150, sequence(1));
  });
  EXPECT_GT(run_out_of_memory(prompt, [&](Cache& cache) { load(cache, file); }), 20);
}

TEST(Allocation, OfLoadFollowsWhatHasBeenRead) {
  const std::string file = file_after([](Cache& cache) {
    prompt(cache);
    flush(cache);
    update(cache, tokens(), 200, 150, sequence(1));
  });
  Cache cache = make_cache(strong_feedback());
  const auto used_by = [&](const std::string& bytes) {
    std::istringstream in(bytes);
    const std::size_t before = allocated_bytes();
    EXPECT_THROW(cache.load(in), Error);
    return allocated_bytes() - before;
  };
  const std::size_t least = used_by(file.substr(0, 600));
  for (std::size_t end = 600; end < file.size(); end += 8) {
    // Whatever the last number was, it promises a lot that never comes.
    std::string promising = file.substr(0, end);
    promising.replace(end - 8, 8, std::string(4, '\0') + '\x40' + std::string(3, '\0'));
    // Rows are read one by one, but a slab of 32 is made at a time.
    ASSERT_LE(used_by(promising), least + 32 * 1024 + 12 * end) << end;
  }
}

/// The last row of blocks has room for some of the tokens that leave, and stands for padding there.
void half_a_row(Cache& cache) {
  std::vector<std::uint8_t> valid(78, 1);
  valid[77] = 0;
  CallOptions options;
  options.mask = valid;
  update(cache, tokens(), 0, 78, options);
  cache.flush(0);
  cache.truncate(77);
  update(cache, tokens(), 78, 100);
}

TEST(AllocationFailure, LeavesRowsThatGrowTokenByTokenUndone) {
  Config config = strong_feedback();
  config.key_scales = KeyScales::per_token;
  config.residual_length = 0;
  EXPECT_GT(run_out_of_memory(half_a_row, flush, 0, config), 20);
  EXPECT_GT(run_out_of_memory(
                half_a_row, [](Cache& cache) { update(cache, tokens(), 200, 150); }, 0, config),
            20);
  const auto forked = [](Cache& cache) {
    half_a_row(cache);
    cache.fork(0, 1);
  };
  EXPECT_GT(run_out_of_memory(
                forked, [](Cache& cache) { cache.flush(0, sequence(1)); }, 0, config),
            20);
}

TEST(AllocationFailure, NeverStopsTruncation) {
  Cache cache(shape);
  prompt(cache);
  flush(cache);
  const Rows keys = cache.keys(0);
  allow_allocations(0);
  cache.truncate(70);
  allow_allocations(-1);
  EXPECT_TRUE(same(cache.keys(0), keys.topRows(70)));
}

TEST(Allocation, AttendNeedsNoneAfterItsFirstCall) {
  for (const Index window : {0, 50}) {
    Cache cache = make_cache(strong_feedback(), window);
    prompt(cache);
    flush(cache);
    const Rows query = tokens().queries.topRows(1);
    Rows first = Rows::Zero(1, query.cols()), second = first;
    cache.attend(0, query, first);
    allow_allocations(0);
    cache.attend(0, query, second);
    allow_allocations(-1);
    EXPECT_TRUE(same(first, second));
    EXPECT_GT(first.cwiseAbs().maxCoeff(), 0);
  }
}

}  // namespace
}  // namespace squat::testing
