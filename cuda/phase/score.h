// Scores: each block looks through its part of the vocabulary for the token that it would sample. The
// semantics are those of src/sampling.
#pragma once

#include "../core/block.h"
#include "../core/philox.h"
#include "guide.h"

// The tokens that this block scores: those whose logits it computed.
struct TokenRange {
    uint32_t begin, end;
};

__device__ __forceinline__ TokenRange own_tokens(const Block& block) {
    const Share share = block.shared.share[OG_PHASE_HEAD];
    const uint32_t begin = share.first * OG_GROUP_ROWS;
    return {begin, begin + Block::rows_of(share, block.model.vocab)};
}

// What this block scores of a request: tokens, or those of a list.
struct Choices {
    uint32_t begin, end;
    const uint32_t* listed; // null: numbers are tokens

    __device__ __forceinline__ Choices(const Block& block, const OgRequest& request) : listed(nullptr) {
        if (request.guide == OG_GUIDE_FEW) {
            const Share share = block.even_share(request.guide_count);
            begin = share.first;
            end = share.first + share.count;
            listed = Guide(block, request).listed;
        } else {
            const TokenRange tokens = own_tokens(block);
            begin = tokens.begin;
            end = tokens.end;
        }
    }
    __device__ __forceinline__ uint32_t token(uint32_t i) const { return listed == nullptr ? i : listed[i]; }
};

// One request's logits as sampling sees them.
struct Scaled {
    float* logits; // [vocab]; minus infinity where it is masked
    const uint32_t* seen;
    float penalty;
    float temperature;

    __device__ __forceinline__ Scaled(const Block& block, uint32_t r) {
        const OgRequest& request = block.shared.control.request[r];
        logits = block.state<float>(block.at.logits) + static_cast<uint64_t>(request.logits_row) * block.model.vocab;
        seen = block.state<uint32_t>(block.at.seen) + static_cast<uint64_t>(r) * ((block.model.vocab + 31) / 32);
        penalty = request.repetition_penalty;
        temperature = request.temperature;
    }

    // After the repetition penalty.
    __device__ __forceinline__ float penalised(uint32_t token) const {
        const float logit = logits[token];
        if (penalty == 1.0f || (seen[token / 32] >> token % 32 & 1) == 0) return logit;
        return logit < 0.0f ? logit * penalty : logit / penalty;
    }

    // And divided by the temperature.
    __device__ __forceinline__ float operator()(uint32_t token) const {
        const float logit = penalised(token);
        return temperature == 0.0f ? logit : logit / temperature;
    }
};

// A token and the key by which it competes.
struct Keyed {
    double key;
    uint32_t token;

    // The larger key wins, and the lowest token where keys are equal.
    __device__ __forceinline__ void take(double other, uint32_t other_token) {
        if (other > key || (other == key && other_token < token)) {
            key = other;
            token = other_token;
        }
    }
};

__device__ __forceinline__ Keyed no_token() { return {-INFINITY, 0xffffffffu}; }

__device__ __forceinline__ Keyed warp_best(Keyed best) {
#pragma unroll
    for (unsigned mask = WARP / 2; mask > 0; mask /= 2) {
        const double key = shuffle_xor(best.key, mask);
        const uint32_t token = shuffle_xor(best.token, mask);
        best.take(key, token);
    }
    return best;
}

// The best of all threads, in every thread.
__device__ __forceinline__ Keyed block_best(const Block& block, Keyed best) {
    best = warp_best(best);
    BLOCK_SYNC(); // whoever still reads the last one's
    if (block.lane() == 0) {
        block.shared.warp_key[block.warp()] = best.key;
        block.shared.warp_token[block.warp()] = best.token;
    }
    BLOCK_SYNC();
    best = no_token();
#pragma unroll 1
    for (uint32_t warp = 0; warp < block.warps(); ++warp) best.take(block.shared.warp_key[warp], block.shared.warp_token[warp]);
    return best;
}

// The largest scaled logit of this block's tokens and the lowest token that has it; a key of infinity if some
// logit is not finite. Masks the logits of tokens that the guide does not allow, for all that follows.
__device__ __forceinline__ Keyed largest(const Block& block, const OgRequest& request, const Scaled& scaled) {
    const Choices choices(block, request);
    const Guide guide(block, request);
    const bool masks = request.guide == OG_GUIDE_MANY;
    Keyed best = no_token();
#pragma unroll 1
    for (uint32_t i = choices.begin + block.thread; i < choices.end; i += block.threads) {
        const uint32_t token = choices.token(i);
        const bool finite = isfinite(scaled.penalised(token));
        if (masks && finite && !guide.allows(token)) {
            scaled.logits[token] = -INFINITY;
            continue;
        }
        best.take(finite ? static_cast<double>(scaled(token)) : INFINITY, token);
    }
    return block_best(block, best);
}

// Calls `each(token, logit, bits)` for this thread's share of the block's tokens that survive `cut`.
template <class Each>
__device__ __forceinline__ void for_each_draw(const Block& block, uint32_t r, const Scaled& scaled, float cut, Each each) {
    const OgRequest& request = block.shared.control.request[r];
    const Choices tokens(block, request);
    if (tokens.begin == tokens.end) return;
    if (tokens.listed != nullptr) {
#pragma unroll 1
        for (uint32_t i = tokens.begin + block.thread; i < tokens.end; i += block.threads) {
            const uint32_t token = tokens.listed[i];
            uint32_t bits[4];
            philox(bits, token / 4, request.position, request.sequence, request.seed_low, request.seed_high);
            const uint32_t even = token % 4 < 2 ? bits[0] : bits[2], odd = token % 4 < 2 ? bits[1] : bits[3];
            const float logit = scaled(token);
            if (logit >= cut) each(token, logit, token % 2 == 0 ? even : odd);
        }
        return;
    }
#pragma unroll 1
    for (uint32_t quad = tokens.begin / 4 + block.thread; quad <= (tokens.end - 1) / 4; quad += block.threads) {
        uint32_t bits[4];
        philox(bits, quad, request.position, request.sequence, request.seed_low, request.seed_high);
#pragma unroll 1
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t token = quad * 4 + i;
            if (token < tokens.begin || token >= tokens.end) continue;
            const float logit = scaled(token);
            // Not bits[i]: an array with a variable index would live in memory.
            const uint32_t low = i == 0 ? bits[0] : bits[1], high = i == 2 ? bits[2] : bits[3];
            if (logit >= cut && logit > -INFINITY) each(token, logit, i < 2 ? low : high);
        }
    }
}

// The token of this block with the largest logit plus Gumbel noise, of those that survive `cut`. `max`: its
// largest logit.
PHASE Keyed draw(uint32_t r, float cut, float max) {
    const Block block;
    const Scaled scaled(block, r);
    // First an estimate in f32; the few that come close to its best are worth the f64 that decides.
    Keyed estimate = no_token();
    for_each_draw(block, r, scaled, cut, [&](uint32_t token, float logit, uint32_t bits) {
        estimate.take(static_cast<double>(logit + gumbel_estimate(bits)), token);
    });
    estimate = block_best(block, estimate);
    const double margin = 1e-3 + 1e-5 * fabs(static_cast<double>(max));
    Keyed best = no_token();
    for_each_draw(block, r, scaled, cut, [&](uint32_t token, float logit, uint32_t bits) {
        if (static_cast<double>(logit + gumbel_estimate(bits)) < estimate.key - margin) return;
        best.take(static_cast<double>(logit) + gumbel(bits), token);
    });
    return block_best(block, best);
}

__device__ __forceinline__ OgCandidate* candidates(const Block& block, uint32_t which, uint32_t from, uint32_t r) {
    const uint64_t index = (static_cast<uint64_t>(which) * block.arguments.score_blocks + from) * block.at.columns + r;
    return block.state<OgCandidate>(block.at.candidates) + index;
}

// This block's candidate for every request, `which` = 0: before the filters. If there are filters the draw
// waits for them.
PHASE void score_phase() {
    const Block block;
    BLOCK_SYNC(); // the logits of this block's tokens
#pragma unroll 1
    for (uint32_t r = 0; r < block.shared.control.requests; ++r) {
        if (!is_sampled(block, r)) continue;
        const OgRequest& request = block.shared.control.request[r];
        const Scaled scaled(block, r);
        const Keyed max = largest(block, request, scaled);
        const bool finite = max.key < INFINITY;
        Keyed best = max;
        if (request.temperature > 0.0f && block.arguments.select == 0 && finite) {
            best = draw(r, -INFINITY, static_cast<float>(max.key));
        }
        if (block.thread == 0) {
            *candidates(block, 0, block.index, r) = {best.key, static_cast<float>(max.key), best.token, max.token, finite ? 0u : 1u};
        }
    }
}

// The candidates after the filters, `which` = 1, once `cut` is known.
PHASE void draw_phase() {
    const Block block;
#pragma unroll 1
    for (uint32_t r = 0; r < block.shared.control.requests; ++r) {
        if (!is_sampled(block, r)) continue;
        const OgRequest& request = block.shared.control.request[r];
        OgCandidate candidate = *candidates(block, 0, block.index, r);
        if (request.temperature > 0.0f && candidate.not_finite == 0) {
            const Keyed best = draw(r, block.shared.cut[r], candidate.max);
            candidate.key = best.key;
            candidate.token = best.token;
        }
        if (block.thread == 0) *candidates(block, 1, block.index, r) = candidate;
    }
}

// The best candidate of all blocks for every request, in `shared.best`. A warp for each request; ends with
// the block's threads in step.
PHASE void gather_candidates(uint32_t which) {
    const Block block;
#pragma unroll 1
    for (uint32_t r = block.warp(); r < block.shared.control.requests; r += block.warps()) {
        if (!is_sampled(block, r)) continue;
        Keyed best = no_token(), max = no_token();
        uint32_t not_finite = 0;
#pragma unroll 1
        for (uint32_t from = block.lane(); from < block.arguments.score_blocks; from += WARP) {
            const OgCandidate candidate = *candidates(block, which, from, r);
            best.take(candidate.key, candidate.token);
            max.take(static_cast<double>(candidate.max), candidate.max_token);
            not_finite |= candidate.not_finite;
        }
        best = warp_best(best);
        max = warp_best(max);
        // Infinite maxima stand for logits that are not finite.
        not_finite = max.key < INFINITY ? 0 : 1;
        if (block.lane() == 0) {
            block.shared.best[r] = {best.key, static_cast<float>(max.key), best.token, max.token, not_finite};
        }
    }
    BLOCK_SYNC();
}
