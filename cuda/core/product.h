// Products of bf16 matrices with a few f32 columns, at the speed of memory.
//
// Each block has a fixed, contiguous share of a matrix's rows, in groups of OG_GROUP_ROWS. A *unit*
// is a group, or (where a block has fewer groups than warps) a segment of one: units go round the
// warps. A warp reads 16 bytes a lane and row at once, OG_CHUNK elements of a row; a *batch* is a
// few such chunks of all rows of the group. While a warp multiplies one batch the next is on its
// way, across units, and the first may be under way before the phase begins.
//
// `x` lies in shared memory, [columns][tile], each chunk with its first four elements of every lane
// before the second four, so that both are read without bank conflicts. Where a column of x is
// longer than the tile, the product is taken tile by tile.
#pragma once

#include "bf16.h"
#include "block.h"

constexpr int ROWS = OG_GROUP_ROWS;

// Where element `e` of a column lies in its tile.
__device__ __forceinline__ uint32_t tile_index(uint32_t e) {
    return e / OG_CHUNK * OG_CHUNK + e % 8 / 4 * (OG_CHUNK / 2) + e % OG_CHUNK / 8 * 4 + e % 4;
}

__device__ __forceinline__ uint32_t padded_to_chunk(uint32_t elements) { return (elements + OG_CHUNK - 1) / OG_CHUNK * OG_CHUNK; }

// Chunks in a batch: fewer where more columns need the registers.
__host__ __device__ constexpr int batch_chunks(int columns) { return columns == 8 ? 2 : 4; }

template <int COLUMNS>
struct Batch {
    uint4 weights[batch_chunks(COLUMNS)][ROWS];
};

// A block's part of a product, and where one warp is in it.
template <int COLUMNS>
struct Product {
    static constexpr int CHUNKS = batch_chunks(COLUMNS);

    const uint16_t* matrix; // the block's first row
    uint32_t rows;          // of the block
    uint32_t stride;        // elements
    uint32_t length;        // elements of a row, a multiple of 8
    uint32_t tile;          // elements of a column in shared memory
    uint32_t segments;      // of a group
    uint32_t lane, warp, warps;
    // The warp's place.
    uint32_t tile_begin; // element
    uint32_t unit;
    uint32_t chunk, chunk_end; // of the unit, within the tile
    const uint16_t* at;        // this lane's eight elements of the chunk, in the group's first row
    int32_t left;              // elements from there to the end of the unit

    __device__ __forceinline__ Product(const Block& block, const uint16_t* matrix, uint32_t rows, uint32_t stride, uint32_t length,
                                       uint32_t segments)
        : matrix(matrix),
          rows(rows),
          stride(stride),
          length(length),
          tile(block.arguments.tile),
          segments(segments),
          lane(block.lane()),
          warp(block.warp()),
          warps(block.warps()),
          tile_begin(0),
          at(matrix) {
        begin_tile();
    }

    __device__ __forceinline__ uint32_t groups() const { return (rows + ROWS - 1) / ROWS; }
    __device__ __forceinline__ uint32_t group() const { return segments == 1 ? unit : unit / segments; }
    __device__ __forceinline__ uint32_t tile_end() const { return min(tile_begin + tile, length); }
    __device__ __forceinline__ uint32_t tile_chunks() const { return (tile_end() - tile_begin + OG_CHUNK - 1) / OG_CHUNK; }
    __device__ __forceinline__ bool is_last_tile() const { return tile_begin + tile >= length; }
    __device__ __forceinline__ bool has_unit() const { return unit < groups() * segments; }

    __device__ __forceinline__ void begin_unit() {
        left = 0;
        chunk = chunk_end = 0;
        if (!has_unit()) return;
        chunk_end = tile_chunks();
        if (segments > 1) {
            const uint32_t segment = unit % segments;
            chunk = chunk_end * segment / segments;
            chunk_end = chunk_end * (segment + 1) / segments;
        }
        const uint32_t element = tile_begin + chunk * OG_CHUNK + lane * 8;
        at = matrix + static_cast<uint64_t>(group() * ROWS) * stride + element;
        left = static_cast<int32_t>(min(tile_begin + chunk_end * OG_CHUNK, length) - element);
    }
    __device__ __forceinline__ void begin_tile() {
        unit = warp;
        begin_unit();
    }

    // Starts the loads of the batch at the warp's place; zeros beyond the unit. An odd last row stands in for the
    // row that is missing beside it: nobody takes its sum.
    __device__ __forceinline__ void load(Batch<COLUMNS>& batch) const {
        const uint32_t to_next_row = group() * ROWS + 1 < rows ? stride : 0;
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            const bool inside = c * OG_CHUNK < left;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                batch.weights[c][r] = inside ? load_streamed(at + r * to_next_row + c * OG_CHUNK) : make_uint4(0, 0, 0, 0);
            }
        }
    }

    // Adds the batch at `first_chunk` to `sums`.
    __device__ __forceinline__ void multiply(float (&sums)[ROWS * COLUMNS], const Batch<COLUMNS>& batch, const float* x,
                                             uint32_t first_chunk, uint32_t end) const {
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            if (first_chunk + c >= end) break;
            const float* at = x + (first_chunk + c) * OG_CHUNK + lane * 4;
            float w[ROWS][8];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const uint4 packed = batch.weights[c][r];
                const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    w[r][2 * i] = bf16_low(words[i]);
                    w[r][2 * i + 1] = bf16_high(words[i]);
                }
            }
#pragma unroll
            for (int column = 0; column < COLUMNS; ++column) {
                const float4 low = *reinterpret_cast<const float4*>(at + column * tile);
                const float4 high = *reinterpret_cast<const float4*>(at + column * tile + OG_CHUNK / 2);
                const float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
#pragma unroll
                    for (int i = 0; i < 8; ++i) sums[r * COLUMNS + column] = fmaf(w[r][i], values[i], sums[r * COLUMNS + column]);
                }
            }
        }
    }

    // The whole product. `batch` holds what `load` began. `stage.fill(begin, end)` fills `x` with those
    // elements of every column, all threads together, zeros up to the next chunk; after the last tile
    // `stage.scale(column)` is what the column's sums are multiplied with, if the stage SCALES.
    // `finish(row, column, sums)` is called once for each group and column, with the group's first
    // row within the block's share, by one thread, always the same for all tiles.
    // `first_row`: the block's first, of all rows.
    // Ends with the block's threads out of step.
    template <class Stage, class Finish>
    __device__ __forceinline__ void run(const Block& block, Batch<COLUMNS>& batch, uint32_t first_row, Stage stage, Finish finish) {
        const uint32_t columns = block.columns();
        // One thread has the sums of a tile: adds up, and finishes after the last.
        const auto add_tile = [&](uint32_t row, uint32_t column, float (&sums)[ROWS], float scale) {
            float* so_far = block.state<float>(block.at.partial_rows) + static_cast<uint64_t>(first_row + row) * COLUMNS + column;
            if (tile_begin > 0) {
                for (int r = 0; r < ROWS; ++r) sums[r] += so_far[r * COLUMNS];
            }
            if (is_last_tile()) {
                for (int r = 0; r < ROWS; ++r) sums[r] *= scale;
                finish(row, column, sums);
            } else {
                for (int r = 0; r < ROWS; ++r) so_far[r * COLUMNS] = sums[r];
            }
        };
        for (;;) {
            stage.fill(tile_begin, tile_end());
            BLOCK_SYNC();
            float own_scale = 1.0f;
            if constexpr (Stage::SCALES) {
                if (is_last_tile()) own_scale = scale_columns(block, stage);
            }
            while (has_unit()) {
                float sums[ROWS * COLUMNS] = {}; // [ROWS][COLUMNS]
                const uint32_t done = unit;
                do {
                    const Batch<COLUMNS> current = batch;
                    const uint32_t first_chunk = chunk, end = chunk_end;
                    advance();
                    load(batch);
                    multiply(sums, current, block.work, first_chunk, end);
                } while (unit == done);
                lanes_sums<WARP>(sums);
                float mine[ROWS] = {}; // lane c takes the sums of column c
#pragma unroll
                for (int column = 0; column < COLUMNS; ++column) {
#pragma unroll
                    for (int r = 0; r < ROWS; ++r) {
                        if (lane == static_cast<unsigned>(column)) mine[r] = sums[r * COLUMNS + column];
                    }
                }
                if (lane >= columns) continue;
                if (segments == 1) {
                    add_tile(done * ROWS, lane, mine, own_scale);
                } else {
                    for (int r = 0; r < ROWS; ++r) block.shared.sums[(done * ROWS + r) * COLUMNS + lane] = mine[r];
                }
            }
            if (segments > 1) {
                BLOCK_SYNC();
#pragma unroll 1
                for (uint32_t i = block.thread; i < groups() * columns; i += block.threads) {
                    const uint32_t group = i / columns, column = i % columns;
                    float sums[ROWS] = {};
#pragma unroll 1
                    for (uint32_t segment = 0; segment < segments; ++segment) {
                        const float* from = block.shared.sums + (group * segments + segment) * ROWS * COLUMNS + column;
                        for (int r = 0; r < ROWS; ++r) sums[r] += from[r * COLUMNS];
                    }
                    add_tile(group * ROWS, column, sums, Stage::SCALES ? block.shared.scale[column] : 1.0f);
                }
            }
            if (is_last_tile()) return;
            tile_begin += tile;
            begin_tile();
            load(batch);
            BLOCK_SYNC(); // x and the segments' sums are free again
        }
    }

private:
    // The scales of all columns, into shared memory and, that of column c, to lane c of every warp.
    template <class Stage>
    __device__ __forceinline__ float scale_columns(const Block& block, const Stage& stage) const {
        float own = 1.0f;
#pragma unroll
        for (int column = 0; column < COLUMNS; ++column) {
            const float scale = stage.scale(column);
            if (lane == static_cast<uint32_t>(column)) own = scale;
            if (block.thread == 0) block.shared.scale[column] = scale;
        }
        return own;
    }

    // To the warp's next batch in this tile; past the last unit at its end.
    __device__ __forceinline__ void advance() {
        chunk += CHUNKS;
        at += CHUNKS * OG_CHUNK;
        left -= CHUNKS * OG_CHUNK;
        if (chunk < chunk_end) return;
        unit += warps;
        begin_unit();
    }
};

// Fills x, four elements of every column at a time, with all of a thread's loads under way before the first is
// stored: they come from L2, one after the other they would cost its latency each. `read(c, e)` gives elements
// e to e + 3 of column c, up to `length`, and `read_weight(e)` what goes with them in every column;
// `take(c, values, weight)` returns what is stored.
template <int COLUMNS, class Read, class ReadWeight, class Take>
__device__ __forceinline__ void fill_tile(const Block& block, uint32_t begin, uint32_t end, uint32_t length, Read read, ReadWeight read_weight,
                                          Take take) {
    constexpr int ITEMS = COLUMNS == 1 ? 4 : COLUMNS == 2 ? 2 : 1;
    const uint32_t tile = block.arguments.tile;
    const uint32_t columns = block.columns();
    const uint32_t padded = padded_to_chunk(end - begin);
    const uint32_t step = block.threads * 4;
#pragma unroll 1
    for (uint32_t first = block.thread * 4; first < padded; first += step * ITEMS) {
        const float4 zeros = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        float4 values[ITEMS][COLUMNS], weight[ITEMS];
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            const uint32_t e = begin + first + item * step;
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                const bool there = e < length && static_cast<uint32_t>(c) < columns;
                values[item][c] = there ? read(c, e) : zeros;
            }
            weight[item] = e < length ? read_weight(e) : zeros;
        }
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            const uint32_t i = first + item * step;
            if (i >= padded) break;
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                *reinterpret_cast<float4*>(block.work + c * tile + tile_index(i)) = take(c, values[item][c], weight[item]);
            }
        }
    }
}

// Without weights.
template <int COLUMNS, class Read>
__device__ __forceinline__ void fill_tile(const Block& block, uint32_t begin, uint32_t end, uint32_t length, Read read) {
    const auto no_weight = [](uint32_t) { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); };
    fill_tile<COLUMNS>(block, begin, end, length, read, no_weight, [](uint32_t, const float4& values, const float4&) { return values; });
}

__device__ __forceinline__ float4 load_four(const float* from) { return *reinterpret_cast<const float4*>(from); }

// Fills x with vectors that lie in memory: [columns][stride].
template <int COLUMNS>
struct VectorStage {
    const Block& block;
    const float* vectors;
    uint32_t stride; // a multiple of 4
    static constexpr bool SCALES = false;

    __device__ __forceinline__ void fill(uint32_t begin, uint32_t end) const {
        const auto read = [&](uint32_t c, uint32_t e) { return load_four(vectors + static_cast<uint64_t>(c) * stride + e); };
        fill_tile<COLUMNS>(block, begin, end, stride, read);
    }
};

// Asks for `bytes` bytes to be brought into L2, by all threads of the block.
__device__ __forceinline__ void prefetch(const Block& block, const void* from, uint32_t bytes) {
    constexpr uint32_t LINE = 128;
#pragma unroll 1
    for (uint32_t at = block.thread * LINE; at < bytes; at += block.threads * LINE) prefetch_l2(static_cast<const char*>(from) + at);
}

// Asks for the first `bytes` of the block's part of a product to be brought into L2.
template <int COLUMNS>
__device__ __forceinline__ void prefetch(const Block& block, const Product<COLUMNS>& product, uint32_t bytes) {
    const uint64_t size = static_cast<uint64_t>(product.rows) * product.stride * 2;
    prefetch(block, product.matrix, bytes < size ? bytes : static_cast<uint32_t>(size));
}
