/* The recurrence of ATM (networks/atm.py) over whole episodes, forward and backward, for one set of parameters.

   Rows (environments' agents) are independent of each other, so a block of rows goes through all time steps before the
   next block begins: its tokens and the weights stay in the second cache. Every element is summed in one fixed order,
   so a row's results do not depend on the batch it is computed in, and gradients are the same in every run.

   A token is embedded together with its queries, keys and values: [token | query | key | value], 4H numbers, by weights
   that Python has composed. Tokens of actions share one product, and a slot's is made once, when it is remembered; what
   numbers (of actions, of slots) add is added. Backward, all of that is made again; what attention and both layers
   leave behind is kept from the forward pass. Gradients of parameters lie as the parameters do.

   Compiled for float and for double (REAL). No library is needed. */

#include "vectors.h"

#if BYTES == 64
#define COLUMNS 4
#else
#define COLUMNS 2
#endif
#define TALL 6   /* rows of a product that are in registers, each COLUMNS vectors */
#define BLOCK 8  /* rows that go through the time steps together */
#define KINDS 4  /* of what is embedded: the agent itself, then up to three kinds of entities */

/* Tokens are in this order: `basic` of the agent itself, then `count` of each other kind, then the memory's slots. */
struct sizes {
    long T, M, H, heads, basic, bound, slots, kinds, width[KINDS], count[KINDS];
};

struct shape {
    long T, M, H, W, heads, depth, basic, bound, slots, kinds, width[KINDS], count[KINDS];
    long tokens, padded, seen; /* padded: tokens as whole vectors; seen: numbers that a row sees */
};

static struct shape shape_of(const struct sizes *s) {
    struct shape g = {s->T, s->M, s->H, 4 * s->H, s->heads, s->H / s->heads, s->basic, s->bound, s->slots, s->kinds,
                      {0}, {0}, s->basic + s->slots, 0, s->width[0]};
    for (long k = 0; k < s->kinds; k++) g.width[k] = s->width[k], g.count[k] = s->count[k];
    for (long k = 1; k < s->kinds; k++) g.tokens += s->count[k], g.seen += s->count[k] * s->width[k];
    g.padded = (g.tokens + LANES - 1) / LANES * LANES;
    return g;
}

/* Weights are [inputs, outputs]. */
struct layers {
    REAL *embed[KINDS], *embed_bias[KINDS], *number, *first, *slot, *memory, *memory_bias, *unify, *unify_bias, *scale1,
        *offset1, *widen, *widen_bias, *narrow, *narrow_bias, *scale2, *offset2, *remember, *remember_bias, *head,
        *head_bias;
};

static REAL *cut(REAL **from, long count) {
    REAL *const part = *from;
    *from += count;
    return part;
}

static struct layers layers_of(const struct shape *g, REAL *at) {
    const long H = g->H, W = g->W;
    struct layers l;
    for (long k = 0; k < g->kinds; k++) l.embed[k] = cut(&at, g->width[k] * W), l.embed_bias[k] = cut(&at, W);
    l.number = cut(&at, g->basic * W), l.first = cut(&at, g->slots * W), l.slot = cut(&at, g->slots * W);
    l.memory = cut(&at, H * W), l.memory_bias = cut(&at, W);
    l.unify = cut(&at, H * H), l.unify_bias = cut(&at, H), l.scale1 = cut(&at, H), l.offset1 = cut(&at, H);
    l.widen = cut(&at, H * H), l.widen_bias = cut(&at, H), l.narrow = cut(&at, H * H), l.narrow_bias = cut(&at, H);
    l.scale2 = cut(&at, H), l.offset2 = cut(&at, H), l.remember = cut(&at, H * H), l.remember_bias = cut(&at, H);
    l.head = cut(&at, H), l.head_bias = cut(&at, 1);
    return l;
}

/* -- products ------------------------------------------------------------------------------------------------------ */

/* to [R, C vectors] = first (null: zeros; its rows `step` apart, 0 for a bias) + a [R, K] b [K, C vectors]. Elements of
   a are `down` apart from row to row, `across` from term to term. */
INLINE void tile(const int R, const int C, long K, const REAL *a, long down, long across, const REAL *b, long wide,
                 const REAL *first, long step, REAL *to, long apart) {
    vec sum[TALL][COLUMNS];
    UNROLL for (int i = 0; i < R; i++) UNROLL for (int c = 0; c < C; c++) {
        sum[i][c] = first ? load(first + i * step + c * LANES) : (vec){0};
    }
    for (long k = 0; k < K; k++, a += across, b += wide) {
        vec w[COLUMNS];
        UNROLL for (int c = 0; c < C; c++) w[c] = load(b + c * LANES);
        UNROLL for (int i = 0; i < R; i++) {
            const REAL x = a[i * down];
            UNROLL for (int c = 0; c < C; c++) sum[i][c] += x * w[c];
        }
    }
    UNROLL for (int i = 0; i < R; i++) UNROLL for (int c = 0; c < C; c++) store(to + i * apart + c * LANES, sum[i][c]);
}

#define TILE(R, C)                                                                                                     \
    tile((R), (C), K, a + i * down, down, across, b + j, wide, first ? first + i * step + j : 0, step,                 \
         to + i * apart + j, apart)
#define TILES(C)                                                                                                       \
    static __attribute__((noinline)) void tiles_##C(long j, long M, long K, const REAL *a, long down, long across,     \
                                                    const REAL *b, long wide, const REAL *first, long step, REAL *to,  \
                                                    long apart) {                                                      \
        long i = 0;                                                                                                    \
        for (; i + TALL <= M; i += TALL) TILE(TALL, C);                                                                \
        switch (M - i) {                                                                                               \
        case 5: TILE(5, C); break;                                                                                     \
        case 4: TILE(4, C); break;                                                                                     \
        case 3: TILE(3, C); break;                                                                                     \
        case 2: TILE(2, C); break;                                                                                     \
        case 1: TILE(1, C); break;                                                                                     \
        }                                                                                                              \
    }
#if COLUMNS == 4
TILES(4)
#endif
TILES(2)
TILES(1)

/* to [M, N] = first + a [M, K] b [K, N], as in `tile`; N is whole vectors. */
static void product(long M, long K, long N, const REAL *a, long down, long across, const REAL *b, long wide,
                    const REAL *first, long step, REAL *to, long apart) {
    long j = 0;
#if COLUMNS == 4
    for (; j + 4 * LANES <= N; j += 4 * LANES) tiles_4(j, M, K, a, down, across, b, wide, first, step, to, apart);
#endif
    for (; j + 2 * LANES <= N; j += 2 * LANES) tiles_2(j, M, K, a, down, across, b, wide, first, step, to, apart);
    for (; j < N; j += LANES) tiles_1(j, M, K, a, down, across, b, wide, first, step, to, apart);
}

/* to [M, O] = x [M, I] w [I, O] + bias. */
static void affine(long M, long I, long O, const REAL *x, long wide, const REAL *w, const REAL *bias, REAL *to,
                   long apart) {
    product(M, I, O, x, wide, 1, w, O, bias, 0, to, apart);
}

/* What M rows x [M, I] and gradients d [M, O] add to those of w [I, O] and its bias. */
static void learn(long M, long I, long O, const REAL *x, long wide, const REAL *d, long apart, REAL *w, REAL *bias) {
    product(I, M, O, x, 1, wide, d, apart, w, O, w, O);
    if (bias)
        for (long j = 0; j < O; j += LANES) {
            vec sum = load(bias + j);
            for (long i = 0; i < M; i++) sum += load(d + i * apart + j);
            store(bias + j, sum);
        }
}

/* [M, N], rows `wide` apart -> [N, M], rows `apart` apart. */
static void turn(long M, long N, const REAL *from, long wide, REAL *to, long apart) {
    for (long j = 0; j < N; j++)
        for (long i = 0; i < M; i++) to[j * apart + i] = from[i * wide + j];
}

INLINE REAL total(vec x) {
    REAL part[LANES];
    store(part, x);
    UNROLL for (int half = LANES / 2; half; half /= 2) for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

/* -- attention of one row ------------------------------------------------------------------------------------------ */

/* A head's [n, depth] as a product's results: whole vectors go where they belong, others by way of `aside`. */
static void to_head(const struct shape *g, const REAL *a, long down, long across, const REAL *b, long wide, REAL *to,
                    long apart, REAL *aside) {
    const long n = g->tokens, whole = (g->depth + LANES - 1) / LANES * LANES;
    if (whole == g->depth) {
        product(n, n, whole, a, down, across, b, wide, 0, 0, to, apart);
        return;
    }
    product(n, n, whole, a, down, across, b, wide, 0, 0, aside, whole);
    for (long i = 0; i < n; i++) memcpy(to + i * apart, aside + i * whole, g->depth * sizeof(REAL));
}

/* weights [n keys, padded queries], in place: from products of keys and queries to shares of each query. */
static void shares(const struct shape *g, REAL *weights) {
    const REAL scale = root((REAL)1 / g->depth);
    for (long j = 0; j < g->padded; j += LANES) {
        vec most = load(weights + j), sum = {0};
        for (long i = 1; i < g->tokens; i++) {
            const vec x = load(weights + i * g->padded + j);
            most = choose(x > most, x, most);
        }
        for (long i = 0; i < g->tokens; i++) {
            const vec x = exponential((load(weights + i * g->padded + j) - most) * scale);
            store(weights + i * g->padded + j, x);
            sum += x;
        }
        sum = 1 / sum;
        for (long i = 0; i < g->tokens; i++)
            store(weights + i * g->padded + j, load(weights + i * g->padded + j) * sum);
    }
}

/* x [n, 4H] -> weights [heads, n keys, padded queries], mixed [n, H]. turned: [depth, padded] whose end is zeros. */
static void attend(const struct shape *g, const REAL *x, REAL *weights, REAL *mixed, REAL *turned, REAL *aside) {
    const long n = g->tokens, W = g->W, P = g->padded, d = g->depth;
    for (long h = 0; h < g->heads; h++, weights += n * P) {
        const REAL *const q = x + g->H + h * d, *const k = q + g->H, *const v = k + g->H;
        turn(n, d, q, W, turned, P);
        product(n, d, P, k, W, 1, turned, P, 0, 0, weights, P);
        shares(g, weights);
        to_head(g, weights, 1, P, v, W, mixed + h * d, g->H, aside);
    }
}

/* of_mixed [n, H] -> of queries, keys and values, in [n, 4H]. scores: [n, padded]. */
static void attend_back(const struct shape *g, const REAL *x, const REAL *weights, const REAL *of_mixed, REAL *of_x,
                        REAL *turned, REAL *scores, REAL *aside) {
    const long n = g->tokens, W = g->W, P = g->padded, d = g->depth;
    const REAL scale = root((REAL)1 / d);
    for (long h = 0; h < g->heads; h++, weights += n * P) {
        const REAL *const q = x + g->H + h * d, *const k = q + g->H, *const v = k + g->H, *const of = of_mixed + h * d;
        REAL *const of_q = of_x + g->H + h * d;
        turn(n, d, of, g->H, turned, P);
        product(n, d, P, v, W, 1, turned, P, 0, 0, scores, P); /* of the shares */
        for (long j = 0; j < P; j += LANES) {
            vec sum = {0};
            for (long i = 0; i < n; i++) sum += load(scores + i * P + j) * load(weights + i * P + j);
            for (long i = 0; i < n; i++)
                store(scores + i * P + j, (load(scores + i * P + j) - sum) * load(weights + i * P + j) * scale);
        }
        to_head(g, scores, 1, P, k, W, of_q, W, aside);
        to_head(g, scores, P, 1, q, W, of_q + g->H, W, aside);
        to_head(g, weights, P, 1, of, g->H, of_q + 2 * g->H, W, aside);
    }
}

/* -- layer normalisation over a row's tokens and features ----------------------------------------------------------- */

/* x [n, H] -> (x - mean) / deviation, in place. Returns 1 / deviation. */
static REAL standardise(long count, REAL *x) {
    vec sum = {0}, square = {0};
    for (long i = 0; i < count; i += LANES) sum += load(x + i);
    const REAL mean = total(sum) / count;
    for (long i = 0; i < count; i += LANES) square += (load(x + i) - mean) * (load(x + i) - mean);
    const REAL inverse = 1 / root(total(square) / count + (REAL)1e-5);
    for (long i = 0; i < count; i += LANES) store(x + i, (load(x + i) - mean) * inverse);
    return inverse;
}

/* d [n, H]: of what was standardised, already scaled -> of what went in, in place. x: what came out; sums: of d, and of d times x. */
INLINE void standardise_back(long count, const REAL *x, REAL inverse, vec sum, vec with_x, REAL *d) {
    const REAL mean = total(sum) / count, along = total(with_x) / count;
    for (long i = 0; i < count; i += LANES)
        store(d + i, (load(d + i) - mean - load(x + i) * along) * inverse);
}

/* -- what a step works on ------------------------------------------------------------------------------------------ */

/* Kept from the forward pass, for all steps and rows, or of one block where nothing is kept. */
struct kept {
    REAL *mixed, *x1, *wide, *x2, *shares, *inverse; /* [n, H] four times, [heads, n, padded], [2] for each row */
};

static long kept_size(const struct shape *g) {
    return 4 * g->tokens * g->H + g->heads * g->tokens * g->padded + 2;
}

static struct kept kept_of(const struct shape *g, REAL *from, long rows, long at) {
    const long each = g->tokens * g->H, shares = g->heads * g->tokens * g->padded;
    return (struct kept){from + at * each,
                         from + (rows + at) * each,
                         from + (2 * rows + at) * each,
                         from + (3 * rows + at) * each,
                         from + 4 * rows * each + at * shares,
                         from + rows * (4 * each + shares) + 2 * at};
}

/* For one block of rows. */
struct scratch {
    REAL *ring, *of_ring;       /* [slots, R, 4H]: the slots as they were embedded, and gradients of that */
    REAL *x, *of_x, *own;       /* [R, n, 4H] twice, [R, 4H] */
    REAL *each, *other, *third; /* [R, n, H] */
    REAL *mean, *newest, *of_mean; /* [R, H] */
    REAL *turned, *scores, *aside; /* [depth, padded], [n, padded], [n, whole vectors] */
    REAL *unify, *widen, *narrow, *remember, *memory; /* weights, turned round */
};

static struct scratch scratch_of(const struct shape *g, REAL *at, long *size) {
    const long H = g->H, W = g->W, n = g->tokens;
    REAL *const begin = at;
    struct scratch s;
    s.ring = cut(&at, g->slots * BLOCK * W), s.of_ring = cut(&at, g->slots * BLOCK * W);
    s.x = cut(&at, BLOCK * n * W + LANES), s.of_x = cut(&at, BLOCK * n * W), s.own = cut(&at, BLOCK * W);
    s.each = cut(&at, BLOCK * n * H + LANES), s.other = cut(&at, BLOCK * n * H), s.third = cut(&at, BLOCK * n * H);
    s.mean = cut(&at, BLOCK * H), s.newest = cut(&at, BLOCK * H), s.of_mean = cut(&at, BLOCK * H);
    s.turned = cut(&at, g->depth * g->padded), s.scores = cut(&at, n * g->padded);
    s.aside = cut(&at, n * (g->depth + LANES));
    s.unify = cut(&at, H * H), s.widen = cut(&at, H * H), s.narrow = cut(&at, H * H), s.remember = cut(&at, H * H);
    s.memory = cut(&at, W * H);
    *size = at - begin;
    return s;
}

/* How many numbers parameters have, and what is kept of one row's step, and scratch. */
void rooms(const struct sizes *sizes, long *parameters, long *kept, long *scratch) {
    const struct shape g = shape_of(sizes);
    REAL *const nowhere = 0;
    const struct layers l = layers_of(&g, nowhere);
    *parameters = l.head_bias + 1 - nowhere;
    *kept = kept_size(&g);
    scratch_of(&g, nowhere, scratch);
    *scratch += BLOCK * kept_size(&g); /* where nothing is kept */
}

/* Where the slot that was remembered at step t lies; those of the beginning are -1, -2, … */
INLINE long place(const struct shape *g, long t) { return (t + g->slots) % g->slots * BLOCK * g->W; }

/* to [n, 4H] of each of R rows, at step t. seen [R, numbers]. */
static void embed(const struct shape *g, const struct layers *l, struct scratch *s, long t, long R, const REAL *seen) {
    const long W = g->W, n = g->tokens;
    affine(R, g->width[0], W, seen, g->seen, l->embed[0], l->embed_bias[0], s->own, W);
    for (long r = 0; r < R; r++) {
        REAL *to = s->x + r * n * W;
        const REAL *from = seen + r * g->seen + g->width[0];
        for (long i = 0; i < g->basic; i++, to += W)
            for (long j = 0; j < W; j += LANES) store(to + j, load(s->own + r * W + j) + load(l->number + i * W + j));
        for (long k = 1; k < g->kinds; to += g->count[k] * W, from += g->count[k] * g->width[k], k++)
            affine(g->count[k], g->width[k], W, from, g->width[k], l->embed[k], l->embed_bias[k], to, W);
        for (long i = 0; i < g->slots; i++, to += W) {
            const REAL *const slot = s->ring + place(g, t - 1 - i) + r * W;
            for (long j = 0; j < W; j += LANES) store(to + j, load(slot + j) + load(l->slot + i * W + j));
        }
    }
}

/* [R, 4H] of the slots that came out of step t; before the first step, of the first slots. known: the block's first
   row at the first step, its steps M rows apart. */
static void recall(const struct shape *g, const struct layers *l, struct scratch *s, long t, long R, const REAL *known) {
    REAL *const to = s->ring + place(g, t);
    if (t >= 0)
        affine(R, g->H, g->W, known + t * g->M * g->H, g->H, l->memory, l->memory_bias, to, g->W);
    else
        for (long r = 0; r < R; r++) memcpy(to + r * g->W, l->first + (-1 - t) * g->W, g->W * sizeof(REAL));
}

/* -- forward ------------------------------------------------------------------------------------------------------- */

/* to = x scale + offset, of M tokens. */
static void rescale(long M, long H, const REAL *x, const REAL *scale, const REAL *offset, REAL *to) {
    for (long i = 0; i < M * H; i += H)
        for (long j = 0; j < H; j += LANES) store(to + i + j, load(x + i + j) * load(scale + j) + load(offset + j));
}

/* mean [H] of the basic actions' tokens, of one row. */
static void mean_of(const struct shape *g, const struct layers *l, const REAL *x2, REAL *mean) {
    for (long j = 0; j < g->H; j += LANES) {
        vec sum = {0};
        for (long i = 0; i < g->basic; i++) sum += load(x2 + i * g->H + j);
        store(mean + j, sum / (REAL)g->basic * load(l->scale2 + j) + load(l->offset2 + j));
    }
}

static void step_forward(const struct shape *g, const struct layers *l, struct scratch *s, struct kept kept, long t,
                         long R, const REAL *seen, REAL *values, REAL *known) {
    const long H = g->H, n = g->tokens, W = g->W;
    REAL *const newest = known + t * g->M * H;
    embed(g, l, s, t, R, seen);
    for (long r = 0; r < R; r++)
        attend(g, s->x + r * n * W, kept.shares + r * g->heads * n * g->padded, kept.mixed + r * n * H, s->turned,
               s->aside);
    product(R * n, H, H, kept.mixed, H, 1, l->unify, H, l->unify_bias, 0, kept.x1, H);
    for (long i = 0; i < R * n; i++)
        for (long j = 0; j < H; j += LANES) store(kept.x1 + i * H + j, load(kept.x1 + i * H + j) + load(s->x + i * W + j));
    for (long r = 0; r < R; r++) kept.inverse[2 * r] = standardise(n * H, kept.x1 + r * n * H);
    rescale(R * n, H, kept.x1, l->scale1, l->offset1, s->each);
    affine(R * n, H, H, s->each, H, l->widen, l->widen_bias, kept.wide, H);
    for (long i = 0; i < R * n * H; i += LANES) {
        const vec x = load(kept.wide + i);
        store(kept.wide + i, choose(x < 0, (vec){0}, x)); /* what is not a number stays visible */
    }
    affine(R * n, H, H, kept.wide, H, l->narrow, l->narrow_bias, kept.x2, H);
    for (long i = 0; i < R * n * H; i += LANES) store(kept.x2 + i, load(kept.x2 + i) + load(s->each + i));
    for (long r = 0; r < R; r++) {
        const REAL *const x2 = kept.x2 + r * n * H;
        kept.inverse[2 * r + 1] = standardise(n * H, kept.x2 + r * n * H);
        for (long i = 0; i < g->bound; i++) {
            vec sum = {0};
            for (long j = 0; j < H; j += LANES)
                sum += (load(x2 + i * H + j) * load(l->scale2 + j) + load(l->offset2 + j)) * load(l->head + j);
            values[r * g->bound + i] = total(sum) + *l->head_bias;
        }
        mean_of(g, l, x2, s->mean + r * H);
    }
    affine(R, H, H, s->mean, H, l->remember, l->remember_bias, newest, H);
    for (long i = 0; i < R * H; i += LANES) store(newest + i, 2 * sigmoid(2 * load(newest + i)) - 1);
    recall(g, l, s, t, R, known);
}

/* seen [T, M, numbers] -> values [T, M, bound], known [T, M, H]; kept [T, M, …] or null. */
void forward(const struct sizes *sizes, const REAL *seen, const REAL *parameters, REAL *kept, REAL *scratch, REAL *values,
             REAL *known) {
    const struct shape g = shape_of(sizes);
    const struct layers l = layers_of(&g, (REAL *)parameters);
    long size;
    struct scratch s = scratch_of(&g, scratch, &size);
    memset(scratch, 0, size * sizeof(REAL));
    for (long row = 0; row < g.M; row += BLOCK) {
        const long R = g.M - row < BLOCK ? g.M - row : BLOCK;
        for (long t = -g.slots; t < 0; t++) recall(&g, &l, &s, t, R, 0);
        for (long t = 0; t < g.T; t++) {
            const long at = t * g.M + row;
            const struct kept k = kept ? kept_of(&g, kept, g.T * g.M, at) : kept_of(&g, scratch + size, BLOCK, 0);
            step_forward(&g, &l, &s, k, t, R, seen + at * g.seen, values + at * g.bound, known + row * g.H);
        }
    }
}

/* -- backward ------------------------------------------------------------------------------------------------------ */

/* of_mean [R, H] and of values -> of what went into the second normalisation, [R, n, H] */
static void outputs_back(const struct shape *g, const struct layers *l, const struct layers *d, struct kept kept, long R,
                         const REAL *of_values, const REAL *of_mean, REAL *to) {
    const long H = g->H, n = g->tokens;
    for (long r = 0; r < R; r++, of_values += g->bound, of_mean += H, to += n * H) {
        const REAL *const x2 = kept.x2 + r * n * H;
        vec sum = {0}, along = {0};
        for (long j = 0; j < H; j += LANES) {
            const vec scale = load(l->scale2 + j), offset = load(l->offset2 + j), head = load(l->head + j);
            const vec share = load(of_mean + j) / (REAL)g->basic;
            vec of_scale = {0}, of_offset = {0}, of_head = {0};
            for (long i = 0; i < g->bound; i++) {
                const vec x = load(x2 + i * H + j);
                const vec of = i < g->basic ? of_values[i] * head + share : of_values[i] * head;
                of_head += of_values[i] * (x * scale + offset);
                of_scale += of * x;
                of_offset += of;
                store(to + i * H + j, of * scale);
                sum += of * scale;
                along += of * scale * x;
            }
            store(d->head + j, load(d->head + j) + of_head);
            store(d->scale2 + j, load(d->scale2 + j) + of_scale);
            store(d->offset2 + j, load(d->offset2 + j) + of_offset);
        }
        for (long i = 0; i < g->bound; i++) *d->head_bias += of_values[i];
        memset(to + g->bound * H, 0, (n - g->bound) * H * sizeof(REAL));
        standardise_back(n * H, x2, kept.inverse[2 * r + 1], sum, along, to);
    }
}

/* of_x1 [R, n, H], in place: of what came out of the first normalisation -> of what went in. */
static void first_norm_back(const struct shape *g, const struct layers *l, const struct layers *d, struct kept kept,
                            long R, REAL *of_x1) {
    const long H = g->H, n = g->tokens;
    for (long r = 0; r < R; r++, of_x1 += n * H) {
        const REAL *const x1 = kept.x1 + r * n * H;
        vec sum = {0}, along = {0};
        for (long j = 0; j < H; j += LANES) {
            const vec scale = load(l->scale1 + j);
            vec of_scale = load(d->scale1 + j), of_offset = load(d->offset1 + j);
            for (long i = j; i < n * H; i += H) {
                const vec x = load(x1 + i), of = load(of_x1 + i);
                of_scale += of * x;
                of_offset += of;
                store(of_x1 + i, of * scale);
                sum += of * scale;
                along += of * scale * x;
            }
            store(d->scale1 + j, of_scale);
            store(d->offset1 + j, of_offset);
        }
        standardise_back(n * H, x1, kept.inverse[2 * r], sum, along, of_x1);
    }
}

INLINE void add(long count, const REAL *from, REAL *to) {
    for (long j = 0; j < count; j += LANES) store(to + j, load(to + j) + load(from + j));
}

/* s->of_x [R, n, 4H] -> parameters, and the slots' gradients in the ring. */
static void embed_back(const struct shape *g, const struct layers *d, struct scratch *s, long t, long R,
                       const REAL *seen) {
    const long W = g->W, n = g->tokens;
    memset(s->own, 0, R * W * sizeof(REAL));
    for (long r = 0; r < R; r++) {
        const REAL *of = s->of_x + r * n * W, *from = seen + r * g->seen + g->width[0];
        for (long i = 0; i < g->basic; i++, of += W) add(W, of, s->own + r * W), add(W, of, d->number + i * W);
        for (long k = 1; k < g->kinds; of += g->count[k] * W, from += g->count[k] * g->width[k], k++)
            learn(g->count[k], g->width[k], W, from, g->width[k], of, W, d->embed[k], d->embed_bias[k]);
        for (long i = 0; i < g->slots; i++, of += W)
            add(W, of, s->of_ring + place(g, t - 1 - i) + r * W), add(W, of, d->slot + i * W);
    }
    learn(R, g->width[0], W, seen, g->seen, s->own, W, d->embed[0], d->embed_bias[0]);
}

/* of_known, and what later steps want of the newest slot -> s->of_mean [R, H]. */
static void memory_back(const struct shape *g, const struct layers *l, const struct layers *d, struct scratch *s,
                        struct kept kept, long t, long R, const REAL *known, const REAL *of_known) {
    const long H = g->H, W = g->W;
    REAL *const of_slot = s->of_ring + place(g, t), *const of = s->newest;
    product(R, W, H, of_slot, W, 1, s->memory, H, of_known, H, of, H);
    learn(R, H, W, known, H, of_slot, W, d->memory, d->memory_bias);
    memset(of_slot, 0, R * W * sizeof(REAL)); /* from now on of the slot that step t was the first to forget */
    for (long i = 0; i < R * H; i += LANES) store(of + i, load(of + i) * (1 - load(known + i) * load(known + i)));
    for (long r = 0; r < R; r++) mean_of(g, l, kept.x2 + r * g->tokens * H, s->mean + r * H);
    learn(R, H, H, s->mean, H, of, H, d->remember, d->remember_bias);
    product(R, H, H, of, H, 1, s->remember, H, 0, 0, s->of_mean, H);
}

static void step_backward(const struct shape *g, const struct layers *l, const struct layers *d, struct scratch *s,
                          struct kept kept, long t, long R, const REAL *seen, const REAL *known, const REAL *of_values,
                          const REAL *of_known) {
    const long H = g->H, W = g->W, n = g->tokens, each = R * n * H;
    memory_back(g, l, d, s, kept, t, R, known + t * g->M * H, of_known);
    recall(g, l, s, t - g->slots, R, known);
    embed(g, l, s, t, R, seen);
    outputs_back(g, l, d, kept, R, of_values, s->of_mean, s->each);
    learn(R * n, H, H, kept.wide, H, s->each, H, d->narrow, d->narrow_bias);
    product(R * n, H, H, s->each, H, 1, s->narrow, H, 0, 0, s->other, H);
    for (long i = 0; i < each; i += LANES)
        store(s->other + i, choose(load(kept.wide + i) > 0, load(s->other + i), (vec){0}));
    rescale(R * n, H, kept.x1, l->scale1, l->offset1, s->third);
    learn(R * n, H, H, s->third, H, s->other, H, d->widen, d->widen_bias);
    product(R * n, H, H, s->other, H, 1, s->widen, H, s->each, H, s->each, H);
    first_norm_back(g, l, d, kept, R, s->each);
    learn(R * n, H, H, kept.mixed, H, s->each, H, d->unify, d->unify_bias);
    product(R * n, H, H, s->each, H, 1, s->unify, H, 0, 0, s->other, H);
    for (long r = 0; r < R; r++) {
        const REAL *const x = s->x + r * n * W;
        REAL *const of_x = s->of_x + r * n * W;
        for (long i = 0; i < n; i++) memcpy(of_x + i * W, s->each + (r * n + i) * H, H * sizeof(REAL));
        attend_back(g, x, kept.shares + r * g->heads * n * g->padded, s->other + r * n * H, of_x, s->turned, s->scores,
                    s->aside);
    }
    embed_back(g, d, s, t, R, seen);
}

/* of_values [T, M, bound], of_known [T, M, H] -> gradient, which lies as the parameters do and begins as zeros. */
void backward(const struct sizes *sizes, const REAL *seen, const REAL *parameters, const REAL *kept, REAL *scratch,
              const REAL *known, const REAL *of_values, const REAL *of_known, REAL *gradient) {
    const struct shape g = shape_of(sizes);
    const struct layers l = layers_of(&g, (REAL *)parameters), d = layers_of(&g, gradient);
    const long H = g.H;
    long size;
    struct scratch s = scratch_of(&g, scratch, &size);
    memset(scratch, 0, size * sizeof(REAL));
    turn(H, H, l.unify, H, s.unify, H), turn(H, H, l.widen, H, s.widen, H), turn(H, H, l.narrow, H, s.narrow, H);
    turn(H, H, l.remember, H, s.remember, H), turn(H, g.W, l.memory, g.W, s.memory, H);
    for (long row = 0; row < g.M; row += BLOCK) {
        const long R = g.M - row < BLOCK ? g.M - row : BLOCK;
        memset(s.of_ring, 0, g.slots * BLOCK * g.W * sizeof(REAL));
        for (long t = g.T - g.slots; t < g.T; t++) recall(&g, &l, &s, t, R, known + row * H);
        for (long t = g.T - 1; t >= 0; t--) {
            const long at = t * g.M + row;
            step_backward(&g, &l, &d, &s, kept_of(&g, (REAL *)kept, g.T * g.M, at), t, R, seen + at * g.seen,
                          known + row * H, of_values + at * g.bound, of_known + at * H);
        }
        for (long t = -g.slots; t < 0; t++)
            for (long r = 0; r < R; r++) add(g.W, s.of_ring + place(&g, t) + r * g.W, d.first + (-1 - t) * g.W);
    }
}
