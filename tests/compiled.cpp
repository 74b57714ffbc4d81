// What all sources of the tests share, compiled once.
#include <squat/compiled.hpp>
