/* One step of recurrent agents (Linear, ReLU, GRU, Linear), S networks side by side: what a policy computes to act.

   A block of rows goes through all layers before the next block begins, so that what lies between them stays in the
   first cache, and one call takes the place of some twenty small operations. Every element is summed in one fixed
   order, whatever the number of rows.

   Compiled for float and for double (REAL). No library is needed. */

#include "vectors.h"

/* sum [R][C] += x [R, K] (rows `stride` apart) times weights [K][C][LANES]. */
INLINE void accumulate(const int R, const int C, long K, const REAL *x, long stride, const REAL *weights,
                       vec sum[ROWS][3]) {
    for (long k = 0; k < K; k++, weights += C * LANES) {
        vec w[3];
        UNROLL for (int c = 0; c < C; c++) w[c] = load(weights + c * LANES);
        UNROLL for (int i = 0; i < R; i++) {
            const REAL value = x[i * stride + k];
            UNROLL for (int c = 0; c < C; c++) sum[i][c] += value * w[c];
        }
    }
}

/* to [R, B * LANES] = x [R, K] times weights [B][K][LANES] plus bias, without what is negative where `relu`. */
INLINE void layer(const int R, const int relu, long K, long B, const REAL *x, const REAL *weights, const REAL *bias,
                  REAL *to) {
    for (long b = 0; b < B; b++, weights += K * LANES) {
        vec sum[ROWS][3];
        UNROLL for (int i = 0; i < R; i++) sum[i][0] = load(bias + b * LANES);
        accumulate(R, 1, K, x, K, weights, sum);
        UNROLL for (int i = 0; i < R; i++) {
            const vec y = sum[i][0];
            store(to + (i * B + b) * LANES, relu ? choose(y < all(0), all(0), y) : y);
        }
    }
}

/* x: [R, H] -> next [R, H]. weights [H / LANES] times: of the input [H][3][LANES], of the state [H][3][LANES]; bias
   [H / LANES][4][LANES]: of reset, update, and new's two parts. */
INLINE void gated(const int R, long H, const REAL *x, const REAL *state, const REAL *weights, const REAL *bias,
                  REAL *next) {
    for (long j = 0; j < H; j += LANES, weights += 6 * H * LANES, bias += 4 * LANES) {
        vec sum[ROWS][3], new[ROWS];
        UNROLL for (int i = 0; i < R; i++)
            UNROLL for (int c = 0; c < 3; c++) sum[i][c] = load(bias + c * LANES);
        accumulate(R, 3, H, x, H, weights, sum);
        UNROLL for (int i = 0; i < R; i++) new[i] = sum[i][2], sum[i][2] = load(bias + 3 * LANES);
        accumulate(R, 3, H, state, H, weights + 3 * H * LANES, sum);
        UNROLL for (int i = 0; i < R; i++) {
            const vec r = sigmoid(sum[i][0]), z = sigmoid(sum[i][1]);
            const vec n = 2 * sigmoid(2 * (new[i] + r * sum[i][2])) - 1;
            store(next + i * H + j, n + z * (load(state + i * H + j) - n));
        }
    }
}

#define STEP(R)                                                                                                        \
    for (; row + (R) <= M; row += (R)) {                                                                               \
        layer((R), 1, I, H / LANES, x + row * I, fc1, bias, first);                                                    \
        gated((R), H, first, state + row * H, gates, bias + H, next + row * H);                                        \
        layer((R), 0, H, P, next + row * H, fc2, bias + 5 * H, last);                                                  \
        for (int i = 0; i < (R); i++) memcpy(out + (row + i) * A, last + i * P * LANES, A * sizeof(REAL));             \
    }

/* x [S, M, I], or [M, I] for all where `x_step` is 0 (otherwise M * I); state [S, M, H]. weights of each network: of
   the first layer [H / LANES][I][LANES], of the gates as in `gated`, of the last layer [P][H][LANES], P being
   A / LANES, rounded up; bias [5H + P * LANES] likewise. Writes next [S, M, H] and out [S, M, A]. */
void act(long S, long M, long I, long H, long A, long x_step, const REAL *x, const REAL *state, const REAL *weights,
         const REAL *bias, REAL *next, REAL *out) {
    const long P = (A + LANES - 1) / LANES;
    REAL first[ROWS * H], last[ROWS * P * LANES];
    for (long s = 0; s < S; s++) {
        const REAL *const fc1 = weights, *const gates = fc1 + I * H, *const fc2 = gates + 6 * H * H;
        long row = 0;
        STEP(ROWS)
        STEP(1)
        weights = fc2 + P * H * LANES, bias += 5 * H + P * LANES;
        x += x_step, state += M * H, next += M * H, out += M * A;
    }
}
