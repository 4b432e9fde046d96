// The grid barrier, behind one interface: cooperative groups' own, or monotonic epochs.
//
// An epoch ends when every block has arrived at it. Arriving is a release operation and leaving an
// acquire operation on the counter itself, so that whatever any thread of any block wrote before is
// seen by all after. The counter is never reset: the next launch counts on from where this one ends.
// A block that waits longer than the watchdog's limit raises `abort`, and every block leaves.
#pragma once

#include "../abi.h"
#include "platform.h"

struct GridBarrier {
    OgBarrier* state;
    uint32_t* arrivals;
    OgReport* report;
    uint32_t kind;
    uint32_t watchdog_ms;
    uint32_t stall_block, stall_epoch;
    uint32_t* aborted;     // in shared memory: what thread 0 found
    uint32_t first_arrival; // arrivals when this launch began
    uint32_t first_epoch;  // epochs then
    uint32_t epoch;        // barriers passed, this launch and all before

    __device__ GridBarrier(const OgArguments& arguments, uint32_t* aborted) : aborted(aborted) {
        char* at = reinterpret_cast<char*>(arguments.state);
        state = reinterpret_cast<OgBarrier*>(at + arguments.at.barrier);
        arrivals = reinterpret_cast<uint32_t*>(at + arguments.at.arrivals);
        report = &reinterpret_cast<OgMailbox*>(arguments.mailbox)->report;
        kind = arguments.barrier;
        watchdog_ms = arguments.watchdog_ms;
        stall_block = arguments.stall_block;
        stall_epoch = arguments.stall_epoch;
        // Written by the launch before this one, and by block 0 after the last barrier of this one.
        first_epoch = epoch = state->epoch;
        first_arrival = state->first_arrival;
    }

    // Tells the others that this block's threads are done with what comes before.
    __device__ __forceinline__ void arrive(OgPhase phase) {
        ++epoch;
        if (kind == OG_BARRIER_COOPERATIVE) return; // it arrives and waits at once
        BLOCK_SYNC();
        if (threadIdx.x != 0) return;
        if (stall_epoch != 0 && blockIdx.x == stall_block && passed() == stall_epoch) return;
        store_relaxed(&arrivals[blockIdx.x], epoch);
        add_release(&state->arrived, 1, order(phase));
    }

    // Waits for the others. False if the launch was aborted: then every thread must leave.
    __device__ __forceinline__ bool wait(OgPhase phase, uint32_t layer) {
        if (kind == OG_BARRIER_COOPERATIVE) {
#if ONEGRID_EMULATED
            emulator::grid_barrier(order(phase) == Order::Relaxed);
#else
            cooperative_groups::this_grid().sync();
#endif
            return true;
        }
        // One thread decides for its block, so that all its threads leave or none.
        if (threadIdx.x == 0) *aborted = !spin(phase, layer);
        BLOCK_SYNC();
        return *aborted == 0;
    }

    __device__ __forceinline__ bool sync(OgPhase phase, uint32_t layer) {
        arrive(phase);
        return wait(phase, layer);
    }

    // After the last barrier: where the next launch counts on from.
    __device__ void finish() {
        if (blockIdx.x != 0 || threadIdx.x != 0) return;
        state->epoch = epoch;
        if (kind == OG_BARRIER_EPOCH) state->first_arrival = first_arrival + passed() * gridDim.x;
    }

private:
    __device__ __forceinline__ uint32_t passed() const { return epoch - first_epoch; }

    __device__ __forceinline__ static Order order(OgPhase phase) {
#if ONEGRID_EMULATED
        return emulator::is_left_out(phase) ? Order::Relaxed : Order::AcquireRelease;
#else
        (void)phase;
        return Order::AcquireRelease;
#endif
    }

    // False if the launch was aborted.
    __device__ __forceinline__ bool spin(OgPhase phase, uint32_t layer) {
        const uint32_t target = first_arrival + passed() * gridDim.x;
        uint64_t start = 0;
        for (uint32_t spins = 0;; ++spins) {
            // Differences, since the counter wraps.
            if (static_cast<int32_t>(load_acquire(&state->arrived, order(phase)) - target) >= 0) return true;
            if (spins % 256 != 255) continue;
#if ONEGRID_EMULATED
            emulator::yield();
#endif
            if (load_relaxed(&state->abort) != 0) return false;
            const uint64_t now = clock_nanoseconds();
            if (start == 0) start = now;
            if (watchdog_ms != 0 && now - start > watchdog_ms * 1000000ull) {
                stalled(phase, layer);
                return false;
            }
        }
    }

    __device__ void stalled(OgPhase phase, uint32_t layer) {
        uint32_t block = 0;
        while (block < gridDim.x && static_cast<int32_t>(load_relaxed(&arrivals[block]) - epoch) >= 0) ++block;
        // Several blocks may get here; the first reports.
        if (exchange_relaxed(&state->abort, 1) == 0) {
            report->block = block;
            report->phase = phase;
            report->layer = layer;
            report->status = OG_STATUS_STALLED;
        }
    }
};
