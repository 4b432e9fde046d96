// The grid barrier, behind one interface: cooperative groups' own, or monotonic epochs.
//
// An epoch ends when every block has arrived at it. Arriving is a release operation and leaving an
// acquire operation on the counter itself, so that whatever any thread of any block wrote before is
// seen by all after. The counter is never reset: the next launch counts on from where this one ends.
// A block that waits longer than the watchdog's limit raises `abort`, and every block leaves.
//
// Between arriving and waiting a block may do what does not depend on the others.
#pragma once

#include "block.h"
#include "trace.h"

struct GridBarrier {
    const Block block;
    BarrierPlace& place;
    OgBarrier& counter;
    uint32_t* arrivals; // [blocks]
    const uint32_t kind;

    __device__ __forceinline__ GridBarrier()
        : place(block.shared.barrier),
          counter(*block.state<OgBarrier>(block.at.barrier)),
          arrivals(block.state<uint32_t>(block.at.arrivals)),
          kind(block.arguments.barrier) {}

    // Before the first barrier of a launch, by one thread.
    __device__ __forceinline__ void begin() const {
        // Written at the end of the launch before this one; block 0 writes them again after the last
        // barrier of this one.
        place.first_epoch = place.epoch = counter.epoch;
        place.first_arrival = counter.first_arrival;
        place.aborted = 0;
        trace_begin();
    }

    // Tells the others that this block is done with `phase`.
    __device__ __forceinline__ void arrive(OgPhase phase) const {
        trace_phase(traced_as(phase));
        if (kind != OG_BARRIER_EPOCH) return; // cooperative groups arrive and wait at once
        BLOCK_SYNC();
        if (block.thread != 0) return;
        ++place.epoch;
        const OgArguments& arguments = block.arguments;
        if (arguments.stall_epoch != 0 && block.index == arguments.stall_block && passed() == arguments.stall_epoch) return;
        store_relaxed(&arrivals[block.index], place.epoch);
        add_release(&counter.arrived, 1, order(phase));
    }

    // Waits until all blocks are done with `phase`, as part of `layer`. False if the launch was aborted: then
    // every thread must leave.
    __device__ __forceinline__ bool wait(OgPhase phase, uint32_t layer) const {
        if (!wait_for_all(phase, layer)) return false;
        trace_wait(traced_as(phase), layer);
        return true;
    }

    __device__ __forceinline__ bool sync(OgPhase phase, uint32_t layer) const {
        arrive(phase);
        return wait(phase, layer);
    }

    // After the last barrier: where the next launch counts on from.
    __device__ __forceinline__ void finish() const {
        if (kind != OG_BARRIER_EPOCH || !block.is_first_thread()) return;
        counter.epoch = place.epoch;
        counter.first_arrival = target();
    }

private:
    // What ends where a block arrives, if not the phase itself: before `head`'s barrier the logits are scored, and
    // before `sample`'s those that the selection left are drawn from.
    __device__ __forceinline__ static uint32_t traced_as(OgPhase phase) {
        return phase == OG_PHASE_HEAD ? OG_TRACE_SCORE : phase == OG_PHASE_SAMPLE ? OG_PHASE_SELECT : phase;
    }

    __device__ __forceinline__ bool wait_for_all(OgPhase phase, uint32_t layer) const {
        if (kind == OG_BARRIER_NONE) return true;
        if (kind == OG_BARRIER_COOPERATIVE) {
#if ONEGRID_EMULATED
            emulator::grid_barrier(order(phase) == Order::Relaxed);
#else
            cooperative_groups::this_grid().sync();
#endif
            return true;
        }
        // One thread decides for its block, so that all its threads leave or none.
        if (block.thread == 0) place.aborted = !spin(phase, layer);
        BLOCK_SYNC();
        return place.aborted == 0;
    }

    __device__ __forceinline__ uint32_t passed() const { return place.epoch - place.first_epoch; }

    // Arrivals that end the epoch.
    __device__ __forceinline__ uint32_t target() const { return place.first_arrival + passed() * block.blocks; }

    __device__ __forceinline__ static Order order(OgPhase phase) {
#if ONEGRID_EMULATED
        return emulator::is_left_out(phase) ? Order::Relaxed : Order::AcquireRelease;
#else
        (void)phase;
        return Order::AcquireRelease;
#endif
    }

    // False if the launch was aborted.
    __device__ __forceinline__ bool spin(OgPhase phase, uint32_t layer) const {
        const uint32_t arrivals_wanted = target();
        uint64_t start = 0;
        for (uint32_t spins = 0;; ++spins) {
            // Differences, since the counter wraps.
            const uint32_t arrived = load_acquire(&counter.arrived, order(phase));
            if (static_cast<int32_t>(arrived - arrivals_wanted) >= 0) return true;
            if (spins % 256 != 255) continue;
#if ONEGRID_EMULATED
            emulator::yield();
#endif
            if (load_relaxed(&counter.abort) != 0) return false;
            const uint64_t now = clock_nanoseconds();
            if (start == 0) start = now;
            const uint32_t limit = block.arguments.watchdog_ms;
            if (limit != 0 && now - start > limit * 1000000ull) {
                stalled(phase, layer);
                return false;
            }
        }
    }

    __device__ void stalled(OgPhase phase, uint32_t layer) const {
        uint32_t late = 0;
        while (late < block.blocks && static_cast<int32_t>(load_relaxed(&arrivals[late]) - place.epoch) >= 0) ++late;
        // Several blocks may get here; the first reports.
        if (exchange_relaxed(&counter.abort, 1) != 0) return;
        OgReport& report = block.mailbox().report;
        report.block = late;
        report.phase = phase;
        // The layer behind it waits for `down`.
        report.layer = phase == OG_PHASE_DOWN ? layer - 1 : layer;
        report.status = OG_STATUS_STALLED;
    }
};
