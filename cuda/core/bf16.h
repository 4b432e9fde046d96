// bfloat16 as the 16 bits it is: the upper half of an f32.
#pragma once

#include "platform.h"

__device__ __forceinline__ float bf16_to_float(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }

// The two numbers of a word, lower address first.
__device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Rounds to nearest, ties to even. Not for NaN, which ends a launch before it gets here.
__device__ __forceinline__ uint16_t bf16_from_float(float value) {
    const uint32_t bits = __float_as_uint(value);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
