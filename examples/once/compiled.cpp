// What depends on no template parameter, compiled once for all examples.
#include <squat/compiled.hpp>
