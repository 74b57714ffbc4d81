// What all examples share, compiled once.
#include <squat/compiled.hpp>
