// What depends on no template parameter, compiled for all sources of the tests.
#include <squat/compiled.hpp>
