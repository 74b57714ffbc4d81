// The floating-point environment that the library computes in, whatever that of the program is.
#pragma once

#include <cfenv>

#if defined(__SSE2_MATH__)
#include <xmmintrin.h>
#endif

namespace squat::detail {

/// While it lives, numbers of this thread are rounded to the nearest, denormal ones are kept, and
/// exceptions neither trap nor leave flags. Codes depend on how numbers are rounded, and kernels
/// divide by zero in lanes that they drop.
class DefaultFloatEnvironment {
 public:
#if defined(__SSE2_MATH__)  // a tenth of the time of fesetenv
  DefaultFloatEnvironment() noexcept : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloatEnvironment() { _mm_setcsr(before_); }
#else
  DefaultFloatEnvironment() noexcept {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&before_); }
#endif
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
#if defined(__SSE2_MATH__)
  unsigned before_;
#else
  std::fenv_t before_;
#endif
};

}  // namespace squat::detail
