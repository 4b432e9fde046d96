/* Everything that the host and the kernels share: what a launch is told, where things lie in memory,
 * and what comes back. Plain C, so that bindgen, nvcc and a C++ compiler read the same file.
 *
 * Memory comes in three pieces, and every place in them is a byte offset, so that the same
 * arguments work on a GPU, on CPU threads, and from a file:
 *   weights  read-only: matrices in bf16, vectors in f32
 *   state    everything that a launch writes: activations, KV cache, logits, barrier
 *   mailbox  pinned host memory that both sides see while a kernel runs
 *
 * Rows of a matrix are padded with zeros to a multiple of OG_ROW_ALIGNMENT elements (16 bytes), and
 * every tensor starts at a multiple of OG_TENSOR_ALIGNMENT bytes.
 */
#ifndef ONEGRID_ABI_H
#define ONEGRID_ABI_H

#include <stdint.h>

/* Columns that one pass takes at most: (sequence, position, token) triples. */
#define OG_MAX_COLUMNS 8
/* Tokens that end a sequence. */
#define OG_MAX_STOP_TOKENS 16
/* Elements: a row's stride is a multiple of it. */
#define OG_ROW_ALIGNMENT 8
/* Bytes. */
#define OG_TENSOR_ALIGNMENT 256
/* Elements that one warp reads of a row at once: 32 lanes of 16 bytes. */
#define OG_CHUNK 256
/* Threads of a block at most. */
#define OG_MAX_THREADS 256
/* Bytes of a block's shared memory before the part that phases share by turns (`x`, or attention's). */
#define OG_SHARED_FIXED 9728
/* Queries (columns times heads of one KV head) that attention holds in registers at most. */
#define OG_QUERY_BLOCK 4
/* Floats of the shared part that attention needs, with W warps, C columns, head_dim D. */
#define OG_ATTENTION_FLOATS(W, C, D) \
    ((W) * OG_QUERY_BLOCK * ((D) + 2) + OG_QUERY_BLOCK * (D) + (C) * (D))
/* Bytes of the shared part at the least: one histogram of the selection. */
#define OG_SHARED_WORK_MIN (OG_BUCKETS * 8)
/* Floats of the fixed part that hold the sums of a product whose rows several warps share: groups of a
 * block * segments * OG_GROUP_ROWS * columns must not exceed it, or segments must be 1. */
#define OG_SEGMENT_SUMS 1024
/* Rows that a warp multiplies together. */
#define OG_GROUP_ROWS 2
/* Stretches of past positions that attention of one head is divided into at most. */
#define OG_MAX_SPLITS 64
/* Buckets of one pass of the radix selection behind top-k and top-p: 11 bits of a key. */
#define OG_BUCKETS 2048
/* Passes of it: 11 + 11 + 10 bits. */
#define OG_SELECT_PASSES 3
/* `OgColumn.logits_row` of a column whose logits nobody wants. */
#define OG_NO_LOGITS 0xffffffffu
/* `OgReport.norm` where nothing was found wrong. */
#define OG_ALL_FINITE 0xffffffffu
/* `OgTraceEvent.layer` of what belongs to no layer. */
#define OG_TRACE_NO_LAYER 0xffffu
/* `OgTraceEvent.kind`: an OgPhase, or this for the look through the logits between head and its barrier... */
#define OG_TRACE_SCORE 15
/* ...and this bit for the wait at the barrier behind it. */
#define OG_TRACE_WAIT_BIT 4

/* What a launch runs. */
enum OgMode {
    /* One pass of `OgControl.columns` through the layers, and the head for those that want it. */
    OG_MODE_COLUMNS = 0,
    /* Sample, stop or step, until every request ended (or `max_steps` were made). */
    OG_MODE_DECODE = 1
};

/* Which filters some request has: bits of `OgArguments.select`. */
enum OgSelect {
    OG_SELECT_TOP_K = 1,
    OG_SELECT_TOP_P = 2,
    OG_SELECT_MIN_P = 4
};

/* How blocks wait for each other. */
enum OgBarrierKind {
    /* cooperative groups' grid.sync() */
    OG_BARRIER_COOPERATIVE = 0,
    /* monotonic epochs with release and acquire, and a watchdog */
    OG_BARRIER_EPOCH = 1,
    /* not at all: each phase is a kernel of its own */
    OG_BARRIER_NONE = 2
};

/* The parts of a step, for the watchdog's report and the tables. In the order they run. */
enum OgPhase {
    OG_PHASE_EMBED = 0,
    OG_PHASE_NORM = 1, /* only where one block computes the norm for all */
    OG_PHASE_QKV = 2,
    OG_PHASE_ATTENTION = 3,
    OG_PHASE_OUTPUT = 4,
    OG_PHASE_GATE_UP = 5,
    OG_PHASE_DOWN = 6,
    OG_PHASE_HEAD = 7,
    OG_PHASE_SELECT = 8, /* only with top-k or top-p */
    OG_PHASE_SAMPLE = 9,
    OG_PHASES = 10
};

/* Why a request ended. */
enum OgStop {
    OG_STOP_NONE = 0,
    OG_STOP_EOS = 1,
    OG_STOP_LENGTH = 2,
    OG_STOP_CONTEXT = 3,
    OG_STOP_HOST = 4,
    /* Its guide allows nothing more. */
    OG_STOP_COMPLETE = 5
};

/* What a request's guide leaves for its next token. */
enum OgGuideKind {
    OG_GUIDE_NOTHING = 0,
    /* One token: nobody has to ask the model. */
    OG_GUIDE_FORCED = 1,
    /* A few, which are listed: the other rows of the head are not needed. */
    OG_GUIDE_FEW = 2,
    /* More: the others are masked. */
    OG_GUIDE_MANY = 3,
    /* There is no guide. */
    OG_GUIDE_FREE = 4
};

/* What a guide leaves in one of its states: StateRow of src/constraint. */
typedef struct OgGuideState {
    uint16_t kind; /* OgGuideKind */
    uint16_t accepting;
    uint32_t first;   /* FORCED and FEW: where its tokens begin in the list */
    uint32_t count;   /* tokens that are allowed */
    uint32_t steps;   /* where its steps begin, one for each class */
    uint16_t classes; /* how many it has: classes from there on are not allowed */
    uint16_t base;    /* a step of 0 is not allowed, any other leads to base + step */
} OgGuideState;

/* How a launch ended. */
enum OgStatus {
    OG_STATUS_RUNNING = 0,
    OG_STATUS_DONE = 1,
    /* A norm or a logit was NaN or infinite: `norm`, `column` and `position` say where. */
    OG_STATUS_NOT_FINITE = 2,
    /* A barrier was waited for longer than the watchdog allows: `block`, `phase` and `layer`. */
    OG_STATUS_STALLED = 3
};

/* Dimensions, and where the tensors lie in the weights. Offsets in bytes, strides in elements. */
typedef struct OgModel {
    uint32_t hidden;
    uint32_t intermediate;
    uint32_t layers;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t vocab;
    /* Row strides of matrices with `hidden`, `heads * head_dim` and `intermediate` columns. */
    uint32_t hidden_stride;
    uint32_t q_stride;
    uint32_t intermediate_stride;
    float norm_eps;
    uint32_t has_qkv_bias;
    uint32_t has_qk_norm;
    uint32_t padding;
    uint64_t embedding;  /* [vocab][hidden_stride] bf16 */
    uint64_t head;       /* [vocab][hidden_stride] bf16; the embedding where tied */
    uint64_t final_norm; /* [hidden_stride] f32; zeros beyond hidden */
    uint64_t rope;       /* [context][head_dim / 2] of (cosine, sine), f32 */
    /* Layer l begins at `layers_begin + l * layer_bytes`; the rest is relative to that. */
    uint64_t layers_begin;
    uint64_t layer_bytes;
    uint64_t qkv;                 /* [(heads + 2 * kv_heads) * head_dim][hidden_stride] bf16 */
    uint64_t output;              /* [hidden][q_stride] bf16 */
    uint64_t gate_up;             /* [2 * intermediate][hidden_stride] bf16: gate 0, up 0, gate 1, up 1, ... */
    uint64_t down;                /* [hidden][intermediate_stride] bf16 */
    uint64_t input_norm;          /* [hidden_stride] f32; zeros beyond hidden */
    uint64_t post_attention_norm; /* the same */
    uint64_t q_norm;              /* [head_dim] f32 */
    uint64_t k_norm;              /* [head_dim] f32 */
    uint64_t qkv_bias;            /* [(heads + 2 * kv_heads) * head_dim] f32 */
} OgModel;

/* Where things lie in the state. Offsets in bytes. */
typedef struct OgState {
    uint64_t control;  /* OgControl */
    uint64_t barrier;  /* OgBarrier */
    uint64_t arrivals; /* [blocks] u32: the last epoch at which each block arrived */
    uint64_t residual; /* [columns][hidden_stride] f32; zeros beyond hidden, which nobody writes */
    uint64_t normed;   /* the same, of the norm that one block computes for all */
    uint64_t qkv;      /* [columns][(heads + 2 * kv_heads) * head_dim] f32 */
    /* Attention of one stretch of positions: [columns][heads][OG_MAX_SPLITS]... */
    uint64_t split_sums;    /* ...[head_dim] f32: values weighted by exp2(score - maximum) */
    uint64_t split_softmax; /* ...[2] f32: maximum (base 2) and sum of the weights */
    uint64_t head_outputs;  /* [kv_heads][columns][hidden_stride] f32: O projection by head (fused phases) */
    uint64_t activated;     /* [columns][intermediate_stride] f32: SiLU(gate) * up */
    uint64_t partial_rows;  /* [rows of the largest matrix, in whole groups][columns] f32: sums so far, where x takes several tiles */
    uint64_t logits;        /* [logits_rows][vocab] f32 */
    uint64_t seen;          /* [columns][ceil(vocab / 32)] u32: tokens that the repetition penalty applies to */
    uint64_t candidates;    /* [2: before and after the selection][blocks][columns] OgCandidate */
    uint64_t histograms;    /* [2: top-k, top-p][OG_SELECT_PASSES][columns][OG_BUCKETS] u64 */
    uint64_t keys;          /* [layers][sequences][kv_heads][context][head_dim] bf16 */
    uint64_t values;        /* the same */
    uint64_t guides;        /* the tables of guides, as requests point to them */
    uint64_t guide_bytes;   /* room for them */
    uint32_t sequences;
    uint32_t context;
    uint32_t logits_rows;
    uint32_t columns; /* the second dimension of the arrays above: at most OG_MAX_COLUMNS */
} OgState;

/* One token to run through the layers. Columns of one sequence stand together, in order. */
typedef struct OgColumn {
    uint32_t sequence;
    uint32_t position;
    uint32_t token;
    uint32_t logits_row; /* or OG_NO_LOGITS */
    uint32_t few_of;     /* r + 1 if the rows of the head that request r's guide lists are wanted, and no others */
} OgColumn;

/* One request of a decode: its state between tokens, and how to choose them. */
typedef struct OgRequest {
    uint32_t sequence;
    uint32_t position;   /* positions cached: that of the next token */
    uint32_t token;      /* the token sampled last */
    uint32_t remaining;  /* tokens that may still be sampled */
    uint32_t stop;       /* OgStop */
    uint32_t logits_row; /* where its logits are */
    float temperature;   /* 0: greedy */
    float repetition_penalty;
    float top_p;
    float min_p_depth; /* ln(min_p) */
    uint32_t top_k;    /* 0: all */
    uint32_t seed_low;
    uint32_t seed_high;
    uint32_t stop_tokens;
    uint32_t stop_token[OG_MAX_STOP_TOKENS];
    uint32_t guide;       /* OgGuideKind, for the next token */
    uint32_t guide_first; /* as in its state's OgGuideState */
    uint32_t guide_count;
    uint32_t guide_state;
    uint32_t guide_step; /* its OgGuideState.steps */
    uint16_t guide_classes;
    uint16_t guide_base;
    /* The guide's tables: offsets within the state. */
    uint64_t guide_class_of; /* [vocab] u16 */
    uint64_t guide_steps;    /* u16 */
    uint64_t guide_rows;     /* [states] OgGuideState */
    uint64_t guide_listed;   /* u32: tokens of states that list theirs */
} OgRequest;

/* What one thread finds out while a launch runs, and all blocks read after the next barrier. */
typedef struct OgNews {
    uint32_t stop_mask;         /* the mailbox's */
    uint32_t not_finite;        /* the first norm that met a value that is not finite, or OG_ALL_FINITE */
    uint32_t not_finite_column; /* in which column */
    uint32_t padding;
} OgNews;

/* What to do, and how far it is. The host writes it before a launch, and block 0 at its end, all but the news: each
 * block works on a copy of its own. */
typedef struct OgControl {
    uint32_t columns;  /* of the next pass */
    uint32_t requests; /* OG_MODE_DECODE: how many */
    uint32_t steps;    /* passes made by this launch */
    uint32_t tokens;   /* tokens in the ring */
    uint32_t stop_mask;     /* as in the news that came with the last sample */
    uint32_t not_finite;        /* as in the news, or the logits */
    uint32_t not_finite_column;
    uint32_t ended;             /* every request ended */
    OgColumn column[OG_MAX_COLUMNS];
    OgRequest request[OG_MAX_COLUMNS];
    OgNews news;
} OgControl;

/* The grid barrier. Never reset: it counts on from launch to launch. */
typedef struct OgBarrier {
    uint32_t arrived;       /* arrivals, all blocks and epochs together, modulo 2^32 */
    uint32_t abort;         /* a watchdog fired: the host must zero all of this before the next launch */
    uint32_t first_arrival; /* `arrived` when the last launch ended */
    uint32_t epoch;         /* epochs passed when the last launch ended */
    uint32_t padding[28];   /* 128 bytes: a line of its own */
} OgBarrier;

/* The best token of one block's part of the vocabulary. */
typedef struct OgCandidate {
    double key;      /* scaled logit, with Gumbel noise where there is a temperature */
    float max;       /* largest scaled logit */
    uint32_t token;
    uint32_t max_token; /* lowest token with the largest scaled logit */
    uint32_t not_finite;
} OgCandidate;

/* One stretch of time of one block: a phase, or a wait. Events of a block follow each other. */
typedef struct OgTraceEvent {
    uint64_t begin; /* nanoseconds of globaltimer */
    uint64_t end;
    uint32_t step;  /* the pass; sampling counts as that of the pass whose logits it takes */
    uint32_t epoch; /* barriers of the launch that the block had passed when it began */
    uint16_t kind;
    uint16_t layer; /* or OG_TRACE_NO_LAYER */
    uint32_t block;
} OgTraceEvent;

/* A pass: its first column. */
typedef struct OgTraceStep {
    uint32_t position;
    uint32_t token;
    uint32_t columns;
    uint32_t is_recorded;
} OgTraceStep;

/* What a block has recorded, all launches together. A trace lies in memory of its own, zero at first: a head of each
 * block, OgArguments.trace_steps steps, OgArguments.trace_events events of each block. */
typedef struct OgTraceHead {
    uint32_t count;     /* events */
    uint32_t lost;      /* events for which there was no room */
    uint32_t next_step; /* of block 0: the number of the next pass */
    uint32_t padding[29]; /* 128 bytes: a line of its own */
} OgTraceHead;

/* What became of a launch. */
typedef struct OgReport {
    uint32_t status; /* OgStatus */
    uint32_t norm;   /* norm 2 l of layer l is its first, 2 l + 1 its second, 2 layers the last, 2 layers + 1 the logits */
    uint32_t column;
    uint32_t position;
    uint32_t block; /* of a stall: the first block that did not arrive */
    uint32_t phase; /* OgPhase */
    uint32_t layer;
    uint32_t steps;
} OgReport;

/* Memory that host and kernel share while the kernel runs. */
typedef struct OgMailbox {
    uint32_t stop_mask; /* the host: bit r ends request r */
    uint32_t padding[31];
    OgReport report;    /* the kernel, at its end */
    uint32_t padding2[24];
    /* The kernel: [ring_capacity] u64, entry i is (i + 1) << 32 | request << 28 | token. Data and flag in one
     * store: an entry is there when its upper half says so. The host clears it before the launch. */
    uint64_t ring[1];
} OgMailbox;

/* The arguments of every kernel. */
typedef struct OgArguments {
    uint64_t weights; /* address */
    uint64_t state;   /* address */
    uint64_t mailbox; /* address, as the kernel sees it */
    OgModel model;
    OgState at;
    uint32_t mode;         /* OgMode */
    uint32_t barrier;      /* OgBarrierKind */
    uint32_t max_steps;    /* OG_MODE_DECODE: passes after which the launch ends */
    uint32_t ring_capacity;
    uint32_t tile;         /* floats of x in shared memory, a column: a multiple of OG_CHUNK */
    uint32_t attention_blocks; /* of the kernel that runs attention: all phases must agree on the splits */
    uint32_t score_blocks;     /* of the kernel that scores the vocabulary */
    /* Fused phases: floats of the shared part before what a KV head attended to, [columns][heads of a KV head *
     * head_dim] f32. It lies behind x and attention's part; `tile` is no shorter than one of its columns. */
    uint32_t attended_at;
    uint32_t split_length; /* past positions below which attention is not split further */
    uint32_t select;       /* OgSelect bits */
    /* Warps that share the columns of a row, by product; at least 1. */
    uint32_t qkv_segments;
    uint32_t output_segments;
    uint32_t gate_up_segments;
    uint32_t down_segments;
    uint32_t prefetch;     /* bytes of the next phase's weights that a block fetches into L2 while it waits */
    uint32_t watchdog_ms;  /* 0: wait for ever */
    uint32_t layer;        /* the layer of a separate kernel */
    uint32_t stall_block;  /* tests: this block... */
    uint32_t stall_epoch;  /* ...never arrives at this epoch of the launch; 0: no block stalls */
    uint32_t step_columns; /* OG_MODE_DECODE: columns of a pass that forced tokens may fill, as in the kernel's name */
    uint64_t trace;        /* address of what a traced kernel records; 0: nothing is recorded */
    uint32_t trace_steps;  /* passes that are recorded */
    uint32_t trace_events; /* events of each block that there is room for */
    uint32_t trace_step;   /* the number of this launch's first pass, from 0 */
    uint32_t padding;
} OgArguments;

#endif
