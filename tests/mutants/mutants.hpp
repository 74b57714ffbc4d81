// The library as it is and its mutants in one program. tests/run_mutants compiles this in front of
// every source.
#pragma once

#include <algorithm>
#include <utility>

namespace squat_mutants {

/// The mutant in use, from the environment variable SQUAT_MUTANT. 0: none. -1: none, but which ones
/// are met is noted.
extern const int active;
extern unsigned char met[];

[[gnu::always_inline]] inline bool is_active(int mutant) {
  if (active == mutant) return true;
  if (active < 0) met[mutant] = 1;
  return false;
}

/// Whether a mutant, 1 and up, is in use. No constant: a mutant where the compiler needs one does
/// not compile, so it is left out.
[[gnu::always_inline]] constexpr bool on(int mutant) { return mutant <= 0 || is_active(mutant); }

/// `a < Operator<mutant, LessEqual>() < b` is `a < b`, with the mutant in use `a <= b`. So are the
/// others: both sides keep their place among the operators around them.
template <int mutant, class Other>
struct Operator {};

#define SQUAT_MUTANT_OPERATOR(NAME, OP)                                                   \
  template <int mutant, class Other, class A>                                             \
  struct NAME##Of {                                                                       \
    const A& a;                                                                           \
  };                                                                                      \
  struct NAME {                                                                           \
    template <class A, class B>                                                           \
    static constexpr auto apply(const A& a, const B& b) {                                 \
      return a OP b;                                                                      \
    }                                                                                     \
  };                                                                                      \
  template <int mutant, class Other, class A>                                             \
  constexpr NAME##Of<mutant, Other, A> operator OP(const A& a, Operator<mutant, Other>) { \
    return {a};                                                                           \
  }                                                                                       \
  template <int mutant, class Other, class A, class B>                                    \
  constexpr auto operator OP(NAME##Of<mutant, Other, A> left, const B& b) {               \
    using Result = decltype(NAME::apply(left.a, b));                                      \
    if (on(mutant)) return static_cast<Result>(Other::apply(left.a, b));                  \
    return NAME::apply(left.a, b);                                                        \
  }

SQUAT_MUTANT_OPERATOR(Less, <)
SQUAT_MUTANT_OPERATOR(LessEqual, <=)
SQUAT_MUTANT_OPERATOR(Greater, >)
SQUAT_MUTANT_OPERATOR(GreaterEqual, >=)
SQUAT_MUTANT_OPERATOR(Equal, ==)
SQUAT_MUTANT_OPERATOR(NotEqual, !=)
SQUAT_MUTANT_OPERATOR(Plus, +)
SQUAT_MUTANT_OPERATOR(Minus, -)
SQUAT_MUTANT_OPERATOR(Times, *)
SQUAT_MUTANT_OPERATOR(Divided, /)
#undef SQUAT_MUTANT_OPERATOR

/// std::min or, with the mutant in use, std::max.
template <int mutant, class T>
constexpr T min(const T& a, const T& b) {
  return on(mutant) ? std::max(a, b) : std::min(a, b);
}
template <int mutant, class T>
constexpr T max(const T& a, const T& b) {
  return on(mutant) ? std::min(a, b) : std::max(a, b);
}

}  // namespace squat_mutants
