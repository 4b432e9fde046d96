// The cut of top-k, top-p and min-p: the lowest scaled logit that survives all three, as src/sampling has it.
//
// The k-th largest logit, and the logit at which the probabilities from the largest down reach p, are found by
// radix selection: a histogram over the leading 11 bits of every logit's key, then over the next 11 of those in
// the bucket that holds it, then over the last 10. A histogram counts (top-k) or sums probabilities as
// integers (top-p), so that its sums are the same in any order.
#pragma once

#include "score.h"

// Bits of the key that a pass looks at.
__host__ __device__ constexpr uint32_t select_bits(int pass) { return pass < 2 ? 11 : 10; }
// One, as a probability in a histogram: 2^40, so that 2^24 of them fit 64 bits.
constexpr float MASS_OF_ONE = 1099511627776.0f;

enum Filter { FILTER_TOP_K = 0, FILTER_TOP_P = 1 };

// A key that orders as floats do.
__device__ __forceinline__ uint32_t ordered_key(float value) {
    const uint32_t bits = __float_as_uint(value);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float float_of_key(uint32_t key) {
    return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ bool filters(const Block& block, Filter filter, uint32_t r) {
    const OgRequest& request = block.shared.control.request[r];
    if (!is_sampled(block, r) || request.temperature == 0.0f || block.shared.best[r].not_finite != 0) return false;
    if (filter == FILTER_TOP_P) return request.top_p < 1.0f;
    return request.top_k > 0 && request.top_k < (request.guide == OG_GUIDE_FEW ? request.guide_count : block.model.vocab);
}

__device__ __forceinline__ uint64_t* histogram(const Block& block, Filter filter, int pass, uint32_t r) {
    const uint64_t index = (static_cast<uint64_t>(filter) * OG_SELECT_PASSES + pass) * block.at.columns + r;
    return block.state<uint64_t>(block.at.histograms) + index * OG_BUCKETS;
}

// Before the first pass of the first filter: what all blocks found, and a cut that everything survives. The other
// threads look at the cut only behind barriers of the phases to come.
__device__ __forceinline__ void begin_selection() {
    const Block block;
    gather_candidates(0);
    if (block.thread == 0) {
#pragma unroll 1
        for (uint32_t r = 0; r < block.shared.control.requests; ++r) block.shared.cut[r] = -INFINITY;
    }
}

// Adds this block's tokens to the histogram of one pass.
PHASE void count_phase(Filter filter, int pass) {
    const Block block;
    uint64_t* own = reinterpret_cast<uint64_t*>(block.work); // [OG_BUCKETS]
    uint32_t shift = 32;
#pragma unroll 1
    for (int p = 0; p <= pass; ++p) shift -= select_bits(p);
#pragma unroll 1
    for (uint32_t r = 0; r < block.shared.control.requests; ++r) {
        if (!filters(block, filter, r)) continue;
#pragma unroll 1
        for (uint32_t i = block.thread; i < OG_BUCKETS; i += block.threads) own[i] = 0;
        BLOCK_SYNC();
        const Scaled scaled(block, r);
        const Choices tokens(block, block.shared.control.request[r]);
        const float max = block.shared.best[r].max;
#pragma unroll 1
        for (uint32_t i = tokens.begin + block.thread; i < tokens.end; i += block.threads) {
            const float logit = scaled(tokens.token(i));
            const uint32_t key = ordered_key(logit);
            if (logit < block.shared.cut[r]) continue;
            if (pass > 0 && key >> (shift + select_bits(pass)) != block.shared.prefix[r]) continue;
            const uint32_t bucket = key >> shift & ((1u << select_bits(pass)) - 1);
            const uint64_t mass = filter == FILTER_TOP_K ? 1 : static_cast<uint64_t>(expf(logit - max) * MASS_OF_ONE + 0.5f);
            add_shared(&own[bucket], mass);
        }
        BLOCK_SYNC();
        uint64_t* all = histogram(block, filter, pass, r);
        // The thread that reads a bucket is the one that empties it for the next request.
#pragma unroll 1
        for (uint32_t i = block.thread; i < OG_BUCKETS; i += block.threads) {
            if (own[i] != 0) add_relaxed(&all[i], own[i]);
        }
    }
}

// Once every block has counted: narrows each request's key by the bucket in which the wanted mass is reached,
// from the top down. After the last pass it is the cut.
PHASE void narrow_phase(Filter filter, int pass) {
    const Block block;
    const uint32_t buckets = 1u << select_bits(pass);
    // Stretches of buckets from the top, one for each thread.
    const uint32_t stretch = (buckets + block.threads - 1) / block.threads;
#pragma unroll 1
    for (uint32_t r = 0; r < block.shared.control.requests; ++r) {
        if (!filters(block, filter, r)) continue;
        const uint64_t* all = histogram(block, filter, pass, r);
        const uint32_t first = min(block.thread * stretch, buckets), end = min(first + stretch, buckets);
        uint64_t own = 0;
#pragma unroll 1
        for (uint32_t i = first; i < end; ++i) own += all[buckets - 1 - i];
        uint64_t up_to = own; // in the warp, this thread's included
#pragma unroll 1
        for (uint32_t distance = 1; distance < WARP; distance *= 2) {
            const uint64_t other = shuffle(up_to, block.lane() >= distance ? block.lane() - distance : 0);
            if (block.lane() >= distance) up_to += other;
        }
        if (block.lane() == WARP - 1) block.shared.totals[block.warp()] = up_to;
        BLOCK_SYNC();
        uint64_t before = up_to - own, total = 0;
#pragma unroll 1
        for (uint32_t warp = 0; warp < block.warps(); ++warp) {
            if (warp < block.warp()) before += block.shared.totals[warp];
            total += block.shared.totals[warp];
        }
        const OgRequest& request = block.shared.control.request[r];
        uint64_t wanted = block.shared.wanted[r];
        if (pass == 0) {
            wanted = filter == FILTER_TOP_K ? request.top_k : static_cast<uint64_t>(ceil(static_cast<double>(total) * request.top_p));
        }
        const uint32_t prefix = pass == 0 ? 0 : block.shared.prefix[r];
        BLOCK_SYNC(); // everybody has read what one thread now writes
        if (before < wanted && before + own >= wanted) {
            uint32_t i = first;
            while (before + all[buckets - 1 - i] < wanted) before += all[buckets - 1 - i++];
            const uint32_t key = prefix << select_bits(pass) | (buckets - 1 - i);
            block.shared.prefix[r] = key;
            block.shared.wanted[r] = wanted - before;
            if (pass == OG_SELECT_PASSES - 1) block.shared.cut[r] = fmaxf(block.shared.cut[r], float_of_key(key));
        }
        BLOCK_SYNC();
    }
}

// For a kernel of its own that comes before pass `passes` (filter * OG_SELECT_PASSES + pass): what the block would
// know if it had been there from the start.
PHASE void select_again(uint32_t passes) {
    begin_selection();
#pragma unroll 1
    for (uint32_t done = 0; done < passes; ++done) {
        narrow_phase(static_cast<Filter>(done / OG_SELECT_PASSES), static_cast<int>(done % OG_SELECT_PASSES));
    }
}

// After the last filter: min-p.
__device__ __forceinline__ void end_selection() {
    const Block block;
    if (block.thread == 0) {
#pragma unroll 1
        for (uint32_t r = 0; r < block.shared.control.requests; ++r) {
            block.shared.cut[r] = fmaxf(block.shared.cut[r], block.shared.best[r].max + block.shared.control.request[r].min_p_depth);
        }
    }
    BLOCK_SYNC();
}

// Empties the histograms for the next selection, once nobody reads them any more.
__device__ __forceinline__ void clear_histograms(const Block& block) {
    uint64_t* all = block.state<uint64_t>(block.at.histograms);
    const uint32_t count = 2 * OG_SELECT_PASSES * block.at.columns * OG_BUCKETS;
#pragma unroll 1
    for (uint32_t i = block.index * block.threads + block.thread; i < count; i += block.blocks * block.threads) all[i] = 0;
}
