// Counter-based random numbers, Philox4x32-10 (Salmon et al., SC 2011), and Gumbel noise made of them:
// the same as src/sampling/philox.rs, bit for bit.
#pragma once

#include "platform.h"

// 32 random bits for each of the four tokens from `4 * quad` on, at `position` of `sequence`.
__device__ __forceinline__ void philox(uint32_t (&bits)[4], uint32_t quad, uint32_t position, uint32_t sequence, uint32_t key0, uint32_t key1) {
    uint32_t c0 = quad, c1 = position, c2 = sequence, c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    bits[0] = c0;
    bits[1] = c1;
    bits[2] = c2;
    bits[3] = c3;
}

// -ln(-ln(u)) with u = (bits + 1/2) / 2^32.
__device__ __forceinline__ double gumbel(uint32_t bits) {
    const double u = (static_cast<double>(bits) + 0.5) * (1.0 / 4294967296.0);
    return -log(-log(u));
}

// The same to about six digits, in f32: near u = 1 from 1 - u, which f32 can hold.
__device__ __forceinline__ float gumbel_estimate(uint32_t bits) {
    constexpr float STEP = 1.0f / 4294967296.0f;
    const float minus_log = bits < 0x80000000u ? -logf((static_cast<float>(bits) + 0.5f) * STEP)
                                               : -log1pf(-(static_cast<float>(~bits) + 0.5f) * STEP);
    return -logf(minus_log);
}
