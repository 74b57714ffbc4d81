// squat: a key-value cache in 2 to 4 bits. This header is all that a program includes.
#pragma once

#include <squat/cache.hpp>
#include <squat/layer_bits.hpp>
