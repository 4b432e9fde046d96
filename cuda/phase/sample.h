// What follows the scores: each request takes its token, reports it, stops or goes on. Every block does the
// same to its own copy of the control block, so that nobody has to wait to hear of it; block 0 writes what
// others read later: the ring, the tokens seen.
#pragma once

#include "select.h"

// Reads the host's wish to stop; the others see it after the next barrier.
__device__ __forceinline__ void poll_stop(const Block& block) {
    if (block.is_first_thread()) block.news().stop_mask = load_system(&block.mailbox().stop_mask);
}

__device__ __forceinline__ bool is_stop_token(const OgRequest& request, uint32_t token) {
#pragma unroll 1
    for (uint32_t i = 0; i < request.stop_tokens; ++i) {
        if (request.stop_token[i] == token) return true;
    }
    return false;
}

__device__ __forceinline__ OgStop reason_to_stop(const Block& block, uint32_t r, uint32_t token) {
    const OgRequest& request = block.shared.control.request[r];
    if (is_stop_token(request, token)) return OG_STOP_EOS;
    if ((block.shared.control.stop_mask >> r & 1) != 0) return OG_STOP_HOST;
    if (request.remaining == 0) return OG_STOP_LENGTH;
    if (request.position >= block.at.context) return OG_STOP_CONTEXT;
    return OG_STOP_NONE;
}

// Takes request `r` on by `token`, and reports it. One thread of each block.
__device__ __forceinline__ void take_token(const Block& block, uint32_t r, uint32_t token) {
    OgControl& control = block.shared.control;
    OgRequest& request = control.request[r];
    const uint32_t entry = control.tokens++;
    request.token = token;
    --request.remaining;
    request.stop = reason_to_stop(block, r, token);
    if (block.index == 0) {
        if (request.repetition_penalty != 1.0f) {
            uint32_t* seen = block.state<uint32_t>(block.at.seen) + static_cast<uint64_t>(r) * ((block.model.vocab + 31) / 32);
            seen[token / 32] |= 1u << token % 32;
        }
        const uint64_t flag = static_cast<uint64_t>(entry + 1) << 32;
        if (entry < block.arguments.ring_capacity) store_system(&block.mailbox().ring[entry], flag | r << 28 | token);
    }
    if (request.guide != OG_GUIDE_FREE) advance_guide(block, request, token);
}

// Takes request `r` on by the token that was chosen or is forced, and by those that are forced behind it: up to
// `most`, which are columns of the next pass unless the request ends with one of them. One thread of each block.
__device__ __forceinline__ void advance_request(const Block& block, uint32_t r, uint32_t most) {
    OgControl& control = block.shared.control;
    OgRequest& request = control.request[r];
    const uint32_t first = control.columns;
    do {
        const bool is_forced = request.guide == OG_GUIDE_FORCED;
        const uint32_t token = is_forced ? *Guide(block, request).listed : block.shared.best[r].token;
        take_token(block, r, token);
        if (request.stop != OG_STOP_NONE) break;
        control.column[control.columns++] = {request.sequence, request.position, token, OG_NO_LOGITS, 0};
        ++request.position;
        if (request.guide == OG_GUIDE_NOTHING) request.stop = OG_STOP_COMPLETE;
    } while (request.guide == OG_GUIDE_FORCED && control.columns - first < most);
    if (request.stop != OG_STOP_NONE) {
        // Nobody needs their keys and values.
        request.position -= control.columns - first;
        control.columns = first;
        return;
    }
    OgColumn& last = control.column[control.columns - 1];
    if (request.guide == OG_GUIDE_FEW) last.few_of = r + 1;
    if (request.guide == OG_GUIDE_MANY || request.guide == OG_GUIDE_FREE) last.logits_row = request.logits_row;
}

// Every request that goes on has a column of the next pass, and forced tokens may fill those that are left.
__device__ __forceinline__ void advance_requests(const Block& block) {
    OgControl& control = block.shared.control;
    uint32_t going = 0;
#pragma unroll 1
    for (uint32_t r = 0; r < control.requests; ++r) going += control.request[r].stop == OG_STOP_NONE ? 1 : 0;
#pragma unroll 1
    for (uint32_t r = 0; r < control.requests; ++r) {
        if (control.request[r].stop != OG_STOP_NONE) continue;
        --going;
        const uint32_t taken = control.columns + going, all = block.arguments.step_columns;
        advance_request(block, r, all > taken ? all - taken : 1);
    }
}

// Chooses among the candidates and makes the columns of the next pass: none if all requests have ended, or
// if something is not finite. Ends with the block's threads in step.
PHASE void sample_phase() {
    const Block block;
    gather_candidates(block.arguments.select == 0 ? 0 : 1);
    if (block.thread == 0) {
        OgControl& control = block.shared.control;
        control.columns = 0;
        control.stop_mask = block.news().stop_mask;
        control.not_finite = block.news().not_finite;
        control.not_finite_column = block.news().not_finite_column;
#pragma unroll 1
        for (uint32_t r = 0; r < control.requests && control.not_finite == OG_ALL_FINITE; ++r) {
            if (!is_sampled(block, r) || block.shared.best[r].not_finite == 0) continue;
            control.not_finite = 2 * block.model.layers + 1;
            control.not_finite_column = r;
        }
        if (control.not_finite == OG_ALL_FINITE) advance_requests(block);
        control.ended = control.columns == 0;
    }
    if (block.arguments.select != 0) clear_histograms(block);
    BLOCK_SYNC();
}
