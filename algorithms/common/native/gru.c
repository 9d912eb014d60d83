/* The recurrence of a GRU over a whole sequence, forward and backward, for K members.

   Rows (environments' agents) are independent of each other, so a block of rows goes through all time steps before
   the next block begins: its states stay in registers and in the first cache. A step is one product with the
   recurrent weights whose results are gated while they are in registers. Every element is summed in one fixed order,
   whatever the number of rows, so results do not depend on the batch they are computed in.

   Compiled for float and for double (REAL). No library is needed. */

#include "vectors.h"

/* One step of R rows. gates [R, 3H]: the input's part of reset, update, new; activated in place. weights
   [H / LANES][H][3][LANES]. recurrent [R, H]: what the reset gate scales, or null; next [R, H]. */
INLINE void step_forward(const int R, long H, REAL *gates, const REAL *weights, const REAL *bias, const REAL *state,
                         REAL *recurrent, REAL *next) {
    for (long j = 0; j < H; j += LANES, weights += 3 * H * LANES) {
        vec reset[ROWS], update[ROWS], new[ROWS];
        UNROLL for (int i = 0; i < R; i++) {
            reset[i] = load(gates + i * 3 * H + j);
            update[i] = load(gates + i * 3 * H + H + j);
            new[i] = load(bias + j);
        }
        for (long k = 0; k < H; k++) {
            const vec wr = load(weights + 3 * LANES * k), wu = load(weights + 3 * LANES * k + LANES),
                      wn = load(weights + 3 * LANES * k + 2 * LANES);
            UNROLL for (int i = 0; i < R; i++) {
                const REAL h = state[i * H + k];
                reset[i] += h * wr;
                update[i] += h * wu;
                new[i] += h * wn;
            }
        }
        UNROLL for (int i = 0; i < R; i++) {
            REAL *const gate = gates + i * 3 * H + j;
            const vec r = sigmoid(reset[i]), z = sigmoid(update[i]);
            const vec n = 2 * sigmoid(2 * (load(gate + 2 * H) + r * new[i])) - 1;
            store(gate, r);
            store(gate + H, z);
            store(gate + 2 * H, n);
            if (recurrent) store(recurrent + i * H + j, new[i]);
            store(next + i * H + j, n + z * (load(state + i * H + j) - n));
        }
    }
}

#define FORWARD(R)                                                                                                     \
    for (; row + (R) <= M; row += (R))                                                                                 \
        for (long t = 0; t < T; t++)                                                                                   \
            step_forward((R), H, gates + (t * M + row) * 3 * H, weights, bias, hidden + (t * M + row) * H,             \
                         recurrent ? recurrent + (t * M + row) * H : 0, hidden + ((t + 1) * M + row) * H);

/* gates [K, T, M, 3H], weights as above for each member, bias [K, H] (of the new gate's recurrent part), recurrent
   [K, T, M, H] or null, hidden [K, T + 1, M, H], whose first step is read and the others written. */
void forward(long K, long T, long M, long H, REAL *gates, const REAL *weights, const REAL *bias, REAL *recurrent,
             REAL *hidden) {
    for (long member = 0; member < K; member++) {
        long row = 0;
        FORWARD(ROWS)
        FORWARD(1)
        gates += T * M * 3 * H, weights += 3 * H * H, bias += H, hidden += (T + 1) * M * H;
        if (recurrent) recurrent += T * M * H;
    }
}

/* carry [R, H] += d [R, 3H] (rows 4H apart) times weights [3H, H], C vectors of columns at a time. */
INLINE void carry_back(const int R, const int C, long H, const REAL *d, const REAL *weights, REAL *carry) {
    for (long j = 0; j < H; j += C * LANES) {
        vec sum[ROWS][2];
        UNROLL for (int i = 0; i < R; i++) for (int c = 0; c < C; c++) sum[i][c] = load(carry + i * H + j + c * LANES);
        for (long k = 0; k < 3 * H; k++) {
            vec w[2];
            for (int c = 0; c < C; c++) w[c] = load(weights + k * H + j + c * LANES);
            UNROLL for (int i = 0; i < R; i++) for (int c = 0; c < C; c++) sum[i][c] += d[i * 4 * H + k] * w[c];
        }
        UNROLL for (int i = 0; i < R; i++) for (int c = 0; c < C; c++) store(carry + i * H + j + c * LANES, sum[i][c]);
    }
}

/* One step back of R rows: carry [R, H] holds what later steps want of this one's state, grad what the outputs do.
   d [R, 4H] receives dL/d of the pre-activations: new, reset, update, and new as the recurrent part sees it. */
INLINE void step_backward(const int R, long H, const REAL *grad, const REAL *gates, const REAL *recurrent,
                          const REAL *state, const REAL *weights, REAL *carry, REAL *d) {
    for (int i = 0; i < R; i++)
        for (long j = 0; j < H; j += LANES) {
            const REAL *const gate = gates + i * 3 * H + j;
            const vec r = load(gate), z = load(gate + H), n = load(gate + 2 * H);
            const vec dh = load(carry + i * H + j) + load(grad + i * H + j);
            const vec dn = dh * (1 - z) * (1 - n * n);
            REAL *const to = d + i * 4 * H + j;
            store(to, dn);
            store(to + H, dn * load(recurrent + i * H + j) * r * (1 - r));
            store(to + 2 * H, dh * (load(state + i * H + j) - n) * z * (1 - z));
            store(to + 3 * H, dn * r);
            store(carry + i * H + j, dh * z);
        }
    if (H % (2 * LANES) == 0)
        carry_back(R, 2, H, d + H, weights, carry);
    else
        carry_back(R, 1, H, d + H, weights, carry);
}

#define BACKWARD(R)                                                                                                    \
    for (; row + (R) <= M; row += (R)) {                                                                               \
        memset(carry, 0, (R) * H * sizeof(REAL));                                                                      \
        for (long t = T - 1; t >= 0; t--)                                                                              \
            step_backward((R), H, grad + (t * M + row) * H, gates + (t * M + row) * 3 * H,                             \
                          recurrent + (t * M + row) * H, hidden + (t * M + row) * H, weights, carry,                   \
                          d + (t * M + row) * 4 * H);                                                                  \
    }

/* As saved by `forward`; grad [K, T, M, H]; weights [K, 3H, H]; carry: scratch for 8 rows of H; d [K, T, M, 4H]. */
void backward(long K, long T, long M, long H, const REAL *grad, const REAL *gates, const REAL *recurrent,
              const REAL *hidden, const REAL *weights, REAL *carry, REAL *d) {
    for (long member = 0; member < K; member++) {
        long row = 0;
        BACKWARD(ROWS)
        BACKWARD(1)
        grad += T * M * H, gates += T * M * 3 * H, recurrent += T * M * H, hidden += (T + 1) * M * H;
        weights += 3 * H * H, d += T * M * 4 * H;
    }
}
