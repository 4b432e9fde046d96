// Attention: RMSNorm of each head of q and k (Qwen3), RoPE, append to the KV cache, then softmax over
// the past, split over the blocks by KV head, by query and by stretches of positions (FlashDecoding;
// the online softmax is that of arXiv 1805.02867).
//
// Columns of one sequence attend to each other too. A task that needs the keys and values of this
// pass computes them itself, so that nobody waits for them; the task of the first queries and the
// last stretch appends them.
#pragma once

#include "../core/bf16.h"
#include "../core/block.h"

// Queries that one task holds in registers.
__host__ __device__ constexpr uint32_t query_block(int columns) { return columns == 1 ? 2 : OG_QUERY_BLOCK; }

// exp2 is the exponential that the hardware has.
constexpr float LOG2_E = 1.44269504088896340736f;
// The maximum of no scores: finite, so that differences of maxima are never NaN.
constexpr float NO_SCORE = -1e30f;

template <uint32_t HEAD_DIM, int COLUMNS>
struct Attention {
    static constexpr uint32_t QUERIES = query_block(COLUMNS);
    static constexpr uint32_t LANES = HEAD_DIM / 8;     // that read one position, 16 bytes each
    static constexpr uint32_t POSITIONS = WARP / LANES; // that a warp reads at once
    static constexpr int PAST_UNROLL = QUERIES == 2 ? 4 : 2; // past positions under way in a lane
    static constexpr uint32_t RECORD = HEAD_DIM + 2;    // sums, maximum, sum of weights

    const Block& block;
    const uint32_t layer;
    // Shared memory.
    float* merge;        // [warps][QUERIES][RECORD]
    float* queries;         // [QUERIES][HEAD_DIM]
    uint16_t* fresh_keys;   // [COLUMNS][HEAD_DIM] bf16: those of this pass
    uint16_t* fresh_values; // the same

    __device__ Attention(const Block& block, uint32_t layer) : block(block), layer(layer) {
        merge = block.work;
        queries = merge + block.warps() * QUERIES * RECORD;
        fresh_keys = reinterpret_cast<uint16_t*>(queries + QUERIES * HEAD_DIM);
        fresh_values = fresh_keys + COLUMNS * HEAD_DIM;
    }

    // What a task covers.
    struct Task {
        const Run& run;
        uint32_t kv_head;
        uint32_t first_query, query_count; // of run.length * group_size, column by column
        uint32_t split;
        bool is_last_split;
        bool appends;
    };

    __device__ __forceinline__ uint16_t* cache(uint64_t which, uint32_t sequence, uint32_t kv_head) const {
        const OgState& at = block.at;
        const uint64_t heads = (static_cast<uint64_t>(layer) * at.sequences + sequence) * block.model.kv_heads + kv_head;
        return block.state<uint16_t>(which) + heads * at.context * HEAD_DIM;
    }

    // One head of q or k, `from: [HEAD_DIM]`, by one warp: norm and RoPE; `store(element, value)` takes it.
    template <class Store>
    __device__ __forceinline__ void rotate(const float* from, const float* norm, uint32_t position, Store store) const {
        constexpr int PAIRS = HEAD_DIM / 2 / WARP;
        float a[PAIRS], b[PAIRS];
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const uint32_t pair = block.lane() + i * WARP;
            a[i] = from[pair];
            b[i] = from[pair + HEAD_DIM / 2];
            squares = fmaf(a[i], a[i], fmaf(b[i], b[i], squares));
        }
        if (norm != nullptr) {
            const float scale = 1.0f / sqrtf(lanes_sum(squares) / HEAD_DIM + block.model.norm_eps);
#pragma unroll
            for (int i = 0; i < PAIRS; ++i) {
                const uint32_t pair = block.lane() + i * WARP;
                a[i] *= scale * norm[pair];
                b[i] *= scale * norm[pair + HEAD_DIM / 2];
            }
        }
        const float2* table = block.weights<float2>(block.model.rope) + static_cast<uint64_t>(position) * (HEAD_DIM / 2);
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const uint32_t pair = block.lane() + i * WARP;
            const float2 angle = table[pair]; // cosine, sine
            store(pair, a[i] * angle.x - b[i] * angle.y);
            store(pair + HEAD_DIM / 2, b[i] * angle.x + a[i] * angle.y);
        }
    }

    // Fills `queries`, and for the last split `fresh_keys` and `fresh_values`: a warp for each vector.
    __device__ __forceinline__ void prepare(const Task& task) const {
        const OgModel& model = block.model;
        const float* qkv = block.state<float>(block.at.qkv);
        const bool has_norm = model.has_qk_norm != 0;
        const float* q_norm = has_norm ? block.layer_weights<float>(layer, model.q_norm) : nullptr;
        const float* k_norm = has_norm ? block.layer_weights<float>(layer, model.k_norm) : nullptr;
        const float factor = LOG2_E / sqrtf(static_cast<float>(HEAD_DIM));
        const uint32_t fresh = task.is_last_split ? task.run.length : 0;
#pragma unroll 1
        for (uint32_t vector = block.warp(); vector < task.query_count + 2 * fresh; vector += block.warps()) {
            if (vector < task.query_count) {
                const uint32_t query = task.first_query + vector;
                const uint32_t column = task.run.first + query / block.group_size();
                const uint32_t head = task.kv_head * block.group_size() + query % block.group_size();
                const float* from = qkv + column * block.qkv_size() + head * HEAD_DIM;
                float* to = queries + vector * HEAD_DIM;
                const auto scale_and_store = [&](uint32_t element, float value) { to[element] = value * factor; };
                rotate(from, q_norm, block.shared.control.column[column].position, scale_and_store);
                continue;
            }
            const uint32_t index = (vector - task.query_count) / 2;
            const bool is_key = (vector - task.query_count) % 2 == 0;
            const OgColumn& column = block.shared.control.column[task.run.first + index];
            const float* k = qkv + (task.run.first + index) * block.qkv_size() + block.q_size() + task.kv_head * HEAD_DIM;
            uint16_t* to = (is_key ? fresh_keys : fresh_values) + index * HEAD_DIM;
            uint16_t* row = cache(is_key ? block.at.keys : block.at.values, column.sequence, task.kv_head);
            row += static_cast<uint64_t>(column.position) * HEAD_DIM;
            const auto round_and_append = [&](uint32_t element, float value) {
                const uint16_t bits = bf16_from_float(value);
                to[element] = bits;
                if (task.appends) row[element] = bits;
            };
            if (is_key) {
                rotate(k, k_norm, column.position, round_and_append);
            } else {
                const float* v = k + block.kv_size();
#pragma unroll
                for (uint32_t e = block.lane(); e < HEAD_DIM; e += WARP) round_and_append(e, v[e]);
            }
        }
    }

    // A softmax under way, of one query, in the lanes that read a position together.
    struct Partial {
        float maximum;
        float weight;
        float sums[8];
    };

    // Adds positions to the softmax of `query`: `scores` and `values` of one lane, and whether each counts.
    template <int UNROLL>
    __device__ __forceinline__ static void accumulate(Partial& partial, const float (&scores)[UNROLL], const uint4 (&values)[UNROLL],
                                                      const bool (&counts)[UNROLL]) {
        float maximum = partial.maximum;
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            if (counts[u]) maximum = fmaxf(maximum, scores[u]);
        }
        const float correction = exp2f(partial.maximum - maximum);
        partial.maximum = maximum;
        partial.weight *= correction;
#pragma unroll
        for (int i = 0; i < 8; ++i) partial.sums[i] *= correction;
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const float weight = counts[u] ? exp2f(scores[u] - maximum) : 0.0f;
            partial.weight += weight;
            float value[8];
            unpack(values[u], value);
#pragma unroll
            for (int i = 0; i < 8; ++i) partial.sums[i] = fmaf(weight, value[i], partial.sums[i]);
        }
    }

    __device__ __forceinline__ static void unpack(const uint4& packed, float (&values)[8]) {
        const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = bf16_low(words[i]);
            values[2 * i + 1] = bf16_high(words[i]);
        }
    }

    // Attends to `count` positions, of which lane groups take every few: `read(position, inside, key, value)`
    // gives this lane's eight elements of each, and `counts(query, position)` whether a query sees it.
    template <int UNROLL, class Read, class Counts>
    __device__ __forceinline__ void attend(Partial (&partials)[QUERIES], uint32_t count, Read read, Counts counts) const {
        const uint32_t lane = block.lane() % LANES;
        const uint32_t step = block.warps() * POSITIONS;
        const uint32_t own = block.warp() * POSITIONS + block.lane() / LANES;
        // All lanes of a warp go round together: their scores are sums over lanes.
#pragma unroll 1
        for (uint32_t first = 0; first + block.warp() * POSITIONS < count; first += step * UNROLL) {
            uint4 keys[UNROLL], values[UNROLL];
            uint32_t position[UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                position[u] = first + u * step + own;
                read(position[u], position[u] < count, keys[u], values[u]);
            }
#pragma unroll
            for (uint32_t q = 0; q < QUERIES; ++q) {
                const float4* at = reinterpret_cast<const float4*>(queries + q * HEAD_DIM + lane * 8);
                const float4 low = at[0], high = at[1];
                const float query[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                float scores[UNROLL];
                bool seen[UNROLL];
#pragma unroll
                for (int u = 0; u < UNROLL; ++u) {
                    float key[8];
                    unpack(keys[u], key);
                    float score = 0.0f;
#pragma unroll
                    for (int i = 0; i < 8; ++i) score = fmaf(query[i], key[i], score);
                    scores[u] = score;
                    seen[u] = position[u] < count && counts(q, position[u]);
                }
                lanes_sums<LANES>(scores);
                accumulate(partials[q], scores, values, seen);
            }
        }
    }

    // Merges the lane groups of a warp, and leaves the warp's softmax of each query in `merge`.
    __device__ __forceinline__ void merge_lanes(Partial (&partials)[QUERIES]) const {
#pragma unroll
        for (uint32_t q = 0; q < QUERIES; ++q) {
            Partial& partial = partials[q];
#pragma unroll
            for (uint32_t mask = LANES; mask < WARP; mask *= 2) {
                const float maximum = fmaxf(partial.maximum, shuffle_xor(partial.maximum, mask));
                const float correction = exp2f(partial.maximum - maximum);
                partial.maximum = maximum;
                partial.weight *= correction;
                partial.weight += shuffle_xor(partial.weight, mask);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    partial.sums[i] *= correction;
                    partial.sums[i] += shuffle_xor(partial.sums[i], mask);
                }
            }
            float* record = merge + (block.warp() * QUERIES + q) * RECORD;
            if (block.lane() < LANES) {
#pragma unroll
                for (int i = 0; i < 8; ++i) record[block.lane() * 8 + i] = partial.sums[i];
            }
            if (block.lane() == 0) {
                record[HEAD_DIM] = partial.maximum;
                record[HEAD_DIM + 1] = partial.weight;
            }
        }
    }

    // Runs one task. `sink(query, element, sum, maximum, weight)` takes the softmax of each query over the
    // task's positions: sums weighted by exp2(score - maximum), and the sum of these weights.
    // Begins and ends with the block's threads in step.
    template <class Sink>
    __device__ __forceinline__ void run(const Task& task, Sink sink) const {
        prepare(task);
        BLOCK_SYNC();
        Partial partials[QUERIES];
#pragma unroll
        for (uint32_t q = 0; q < QUERIES; ++q) partials[q] = Partial{NO_SCORE, 0.0f, {}};

        const uint32_t begin = min(task.split * task.run.split_length, task.run.past);
        const uint32_t end = min(begin + task.run.split_length, task.run.past);
        const uint32_t sequence = block.shared.control.column[task.run.first].sequence;
        const uint32_t lane = block.lane() % LANES * 8;
        const uint64_t offset = begin * static_cast<uint64_t>(HEAD_DIM) + lane;
        const uint16_t* past_keys = cache(block.at.keys, sequence, task.kv_head) + offset;
        const uint16_t* past_values = cache(block.at.values, sequence, task.kv_head) + offset;
        const auto read = [](const uint16_t* rows, uint32_t position, bool inside) {
            const uint16_t* at = rows + static_cast<uint64_t>(position) * HEAD_DIM;
            return inside ? *reinterpret_cast<const uint4*>(at) : make_uint4(0, 0, 0, 0);
        };
        const auto read_past = [&](uint32_t position, bool inside, uint4& key, uint4& value) {
            key = read(past_keys, position, inside);
            value = read(past_values, position, inside);
        };
        attend<PAST_UNROLL>(partials, end - begin, read_past, [](uint32_t, uint32_t) { return true; });

        if (task.is_last_split) {
            const auto read_fresh = [&](uint32_t position, bool inside, uint4& key, uint4& value) {
                key = read(fresh_keys + lane, position, inside);
                value = read(fresh_values + lane, position, inside);
            };
            const auto is_causal = [&](uint32_t query, uint32_t position) {
                return position <= (task.first_query + query) / block.group_size();
            };
            attend<1>(partials, task.run.length, read_fresh, is_causal);
        }
        merge_lanes(partials);
        BLOCK_SYNC();

#pragma unroll 1
        for (uint32_t i = block.thread; i < task.query_count * HEAD_DIM; i += block.threads) {
            const uint32_t q = i / HEAD_DIM, element = i % HEAD_DIM;
            float maximum = NO_SCORE;
#pragma unroll 4
            for (uint32_t warp = 0; warp < block.warps(); ++warp) {
                maximum = fmaxf(maximum, merge[(warp * QUERIES + q) * RECORD + HEAD_DIM]);
            }
            float sum = 0.0f, weight = 0.0f;
#pragma unroll 4
            for (uint32_t warp = 0; warp < block.warps(); ++warp) {
                const float* record = merge + (warp * QUERIES + q) * RECORD;
                const float correction = exp2f(record[HEAD_DIM] - maximum);
                sum = fmaf(correction, record[element], sum);
                weight = fmaf(correction, record[HEAD_DIM + 1], weight);
            }
            sink(task.first_query + q, element, sum, maximum, weight);
        }
        BLOCK_SYNC();
    }

    __device__ __forceinline__ Task task_of(const Run& run, uint32_t kv_head, uint32_t query_block, uint32_t split, bool may_append) const {
        const uint32_t first = query_block * QUERIES;
        const uint32_t count = min(QUERIES, run.length * block.group_size() - first);
        const bool is_last = split + 1 == run.splits;
        return {run, kv_head, first, count, split, is_last, may_append && is_last && query_block == 0};
    }

    // Where the softmax of a stretch of positions lies until the output phase merges them.
    __device__ __forceinline__ uint64_t split_index(uint32_t column, uint32_t head, uint32_t split) const {
        return (static_cast<uint64_t>(column) * block.model.heads + head) * OG_MAX_SPLITS + split;
    }

    __device__ __forceinline__ void run_to_state(const Task& task) const {
        float* sums = block.state<float>(block.at.split_sums);
        float* softmax = block.state<float>(block.at.split_softmax);
        run(task, [&](uint32_t query, uint32_t element, float sum, float maximum, float weight) {
            const uint32_t column = task.run.first + query / block.group_size();
            const uint32_t head = task.kv_head * block.group_size() + query % block.group_size();
            const uint64_t index = split_index(column, head, task.split);
            sums[index * HEAD_DIM + element] = sum;
            if (element == 0) {
                softmax[2 * index] = maximum;
                softmax[2 * index + 1] = weight;
            }
        });
    }

    // All tasks, round the blocks.
    __device__ __forceinline__ void run_all() const {
        const Pass& pass = block.shared.pass;
#pragma unroll 1
        for (uint32_t index = block.index; index < pass.tasks; index += block.blocks) {
            uint32_t r = 0;
            while (r + 1 < pass.runs && pass.run[r + 1].first_task <= index) ++r;
            const Run& run = pass.run[r];
            const uint32_t local = index - run.first_task;
            // Neighbouring blocks take the splits of one head.
            const uint32_t split = local % run.splits;
            const uint32_t query_block = local / run.splits % run.query_blocks;
            const uint32_t kv_head = local / run.splits / run.query_blocks;
            run_to_state(task_of(run, kv_head, query_block, split, true));
        }
    }

    // Every query of a KV head, one after the other (variants in which a head is one block's; the plan
    // has no splits then).
    template <class RunTask>
    __device__ __forceinline__ void run_head(uint32_t kv_head, bool may_append, RunTask run_task) const {
        const Pass& pass = block.shared.pass;
        for (uint32_t r = 0; r < pass.runs; ++r) {
            for (uint32_t query_block = 0; query_block < pass.run[r].query_blocks; ++query_block) {
                run_task(task_of(pass.run[r], kv_head, query_block, 0, may_append));
            }
        }
    }
};

template <uint32_t HEAD_DIM, int COLUMNS>
PHASE void attention_phase(uint32_t layer) {
    const Block block;
    Attention<HEAD_DIM, COLUMNS>(block, layer).run_all();
}
