// Loads query moments from untrusted input, and fits what a cache fits.
#include <squat/detail/plan/bit_allocation.hpp>
#include <squat/query_moments.hpp>

#include "fuzzed_file.hpp"

using namespace squat;
using namespace squat::detail;
using namespace squat::testing;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ModelShape shape{1, 4, 2, 8};
  static const std::string header = saved(QueryMoments(shape)).substr(0, 32);
  if (size == 0) return 0;
  const bool whole_file = data[0] % 8 == 0;
  std::istringstream in(file_of(whole_file ? "" : header, data + 1, size - 1));
  try {
    const QueryMoments moments = QueryMoments::load(in, shape);
    const std::string again = saved(moments);
    std::istringstream second(again);
    expect(saved(QueryMoments::load(second, shape)) == again);
    const Index rank = 1 + data[0] % 10;
    for (Index head = 0; head < 2; ++head) {
      const QuerySubspace subspace =
          QuerySubspace::fit(moments.moment(0, head), rank, 0.1, data[0] % 2 == 0);
      ErrorFeedback<float>(subspace, 1);
      ErrorFeedback<double>(subspace, 4);
      allocate_bits(KeyMetric(subspace), Eigen::VectorXd::Ones(8), 2.5, ScaleFit::unbiased);
    }
  } catch (const Error&) {
  }
  return 0;
}
