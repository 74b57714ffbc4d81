// What tests and examples share, compiled once.
#include <squat/compiled.hpp>
