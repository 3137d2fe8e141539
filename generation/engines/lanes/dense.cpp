// Trains one block of models of one architecture; network.hpp has the network, its evaluation and
// the arguments.
//
// Measured with g++ 12 on one core of a Xeon with AVX-512 (2 MB L2), batch 10, Adam, tanh, in one
// run with the loop of the paper's code (nn.Module, torch.optim, one thread) and torch's sgemm,
// medians. Since then other tiles have made both networks about 8 % faster with AVX2; AVX-512 was
// not at hand again.
//
//                     model-samples a second             times the loop     share of sgemm's
//                     loop     AVX-512    AVX2           AVX-512   AVX2     FLOP/s, AVX-512
//   CNN-s, 1 channel   4,750   142,000    90,000         29.8      18.8     77 %
//   CNN-l, 3 channels  2,800    21,300    12,600          7.5       4.5     75 %
//
// Dropout costs 13 % (the loop: 15 %), evaluation runs at 358,000 and 60,000. Nine tenths of the
// time are the convolutions, at about 85 % of the multiply-adds that the core can make. A further
// factor would need fewer of them (of four gradients under a pooling window three are zero, but
// other ones in each lane), not faster ones.

#include "network.hpp"

extern "C" {

// One epoch; `steps` have been made before. Returns 0, 1 where memory ran out, or 2 for an unknown
// optimizer.
int32_t train(Parameters* weights, const Rates* rates, int32_t optimizer, int32_t dropout,
              const float* images, const int64_t* labels, const int32_t* orders, int64_t n,
              int64_t batch_size, int64_t steps, const double* factors, const double* momenta,
              Totals* totals) {
  [[maybe_unused]] const FlushSubnormals flush;
  const auto memory = make_workspace<DenseWorkspace>();
  if (!memory) return 1;
  DenseWorkspace& work = *memory;
  *totals = Totals{};
  for (int64_t start = 0; start < n; start += batch_size, steps++) {
    std::fill_n(work.weight_gradients, kWeights, all(0.0f));
    add_batch(weights->values, work, {images, labels, orders, n}, start,
              std::min(batch_size, n - start), steps, *rates, dropout, *totals);
    const auto update_all = [&](auto update) {
      for (int w = 0; w < kWeights; w++) update(*weights, w, work.weight_gradients[w]);
    };
    if (!optimize(*rates, optimizer, steps, {factors, momenta}, start / batch_size, update_all))
      return 2;
  }
  return 0;
}

// The masks of one sample, result [unit][lane], as training makes them: to be tested. Returns the
// number of units, or 0 where memory ran out.
int32_t dropout_masks(const Rates* rates, uint64_t step, uint32_t sample, float* result) {
  const auto memory = make_workspace<Workspace>();
  if (!memory) return 0;
  make_dropout(*rates).masks(memory->masks, kEnd.units, step, sample);
  std::memcpy(result, memory->masks, kEnd.units * sizeof(Float));
  return kEnd.units;
}

}  // extern "C"
