// When phases begin and end on each block, for kernels compiled with ONEGRID_TRACED. In all others every
// function here is empty, and nothing of it is left in their code.
//
// One thread of a block reads a clock wherever a phase or a wait ends; what lies between two readings is an
// event, so that events of a block follow each other without gaps. Each block writes to a place of its own:
// nobody waits for anybody, and no two threads write the same word.
//
// The clock is globaltimer. It is one for the whole device and counts nanoseconds, in 64 bits that don't wrap.
// clock64 counts cycles of one multiprocessor: it starts anywhere on each and changes its pace with the power
// management, so that what two blocks read of it can't be laid side by side. The price is the pace of
// globaltimer, which moves in steps, of 32 ns on some cards and of about 1 us on others: the host looks for the
// step in what was recorded, and says it.
#pragma once

#include "block.h"

#if ONEGRID_TRACED

struct Trace {
    const Block block;
    TracePlace& place;

    __device__ __forceinline__ Trace() : place(block.shared.trace) {}

    // Before everything else of a launch; one thread of each block.
    __device__ __forceinline__ void begin() const {
        if (block.arguments.trace == 0) return;
        place.since = clock_nanoseconds();
        place.epoch = 0;
        // What is sampled first was computed by the pass before this launch.
        place.step = block.arguments.trace_step - 1;
        place.layer = OG_TRACE_NO_LAYER;
        place.count = head().count;
        place.lost = head().lost;
    }

    // A pass begins: the layers and the head that follow are of a new step.
    __device__ __forceinline__ void pass() const {
        if (block.thread != 0 || block.arguments.trace == 0) return;
        ++place.step;
        place.layer = OG_TRACE_NO_LAYER;
        if (block.index != 0) return;
        head().next_step = place.step + 1;
        if (place.step >= block.arguments.trace_steps) return;
        const OgColumn& column = block.shared.control.column[0];
        steps()[place.step] = {column.position, column.token, block.columns(), 1};
    }

    // A phase has ended, on all threads of the block.
    __device__ __forceinline__ void phase(uint32_t phase) const {
        // As the barrier that follows would do, so that the last thread's end is the phase's.
        BLOCK_MEET();
        if (block.thread == 0) record(phase, 0);
    }

    // The wait behind a phase has ended, and `layer` comes next.
    __device__ __forceinline__ void wait(uint32_t phase, uint32_t layer) const {
        if (block.thread != 0) return;
        record(phase, 1);
        ++place.epoch;
        place.layer = layer < block.model.layers ? layer : OG_TRACE_NO_LAYER;
    }

private:
    __device__ __forceinline__ OgTraceHead* heads() const { return reinterpret_cast<OgTraceHead*>(block.arguments.trace); }
    __device__ __forceinline__ OgTraceHead& head() const { return heads()[block.index]; }
    __device__ __forceinline__ OgTraceStep* steps() const { return reinterpret_cast<OgTraceStep*>(heads() + block.blocks); }
    __device__ __forceinline__ OgTraceEvent* events() const {
        return reinterpret_cast<OgTraceEvent*>(steps() + block.arguments.trace_steps) +
               static_cast<uint64_t>(block.index) * block.arguments.trace_events;
    }

    __device__ __forceinline__ void record(uint32_t phase, uint32_t is_wait) const {
        if (block.arguments.trace == 0) return;
        const uint64_t now = clock_nanoseconds();
        const uint64_t since = place.since;
        place.since = now;
        if (place.step >= block.arguments.trace_steps) return; // the host knows how many there were
        if (place.count >= block.arguments.trace_events) {
            head().lost = ++place.lost;
            return;
        }
        const uint16_t kind = static_cast<uint16_t>(phase | is_wait << OG_TRACE_WAIT_BIT);
        events()[place.count] = {since, now, place.step, place.epoch, kind, static_cast<uint16_t>(place.layer), block.index};
        head().count = ++place.count;
    }
};

__device__ __forceinline__ void trace_begin() { Trace().begin(); }
__device__ __forceinline__ void trace_pass() { Trace().pass(); }
__device__ __forceinline__ void trace_phase(uint32_t phase) { Trace().phase(phase); }
__device__ __forceinline__ void trace_wait(uint32_t phase, uint32_t layer) { Trace().wait(phase, layer); }

#else

__device__ __forceinline__ void trace_begin() {}
__device__ __forceinline__ void trace_pass() {}
__device__ __forceinline__ void trace_phase(uint32_t) {}
__device__ __forceinline__ void trace_wait(uint32_t, uint32_t) {}

#endif
