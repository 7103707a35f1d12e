/*!
 * \file device/generate.cc
 * \brief A prompt in the largest steps, then token by token.
 */
#include "generate.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "../src/c_api/language_model.h"

namespace hetero_tvm::device {
namespace {

using runtime::LanguageModel;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/*! \brief Take `tokens` in behind `*past` others; the likeliest that follows, of equals the first.
 */
int64_t Take(LanguageModel* model, const std::vector<int64_t>& tokens, int64_t* past) {
  for (size_t at = 0; at < tokens.size();) {
    const int64_t rows = model->RowsFor(tokens.size() - at);
    const size_t count = std::min(tokens.size() - at, static_cast<size_t>(rows));
    const auto begin = tokens.begin() + static_cast<int64_t>(at);
    model->Step({rows, *past, {begin, begin + static_cast<int64_t>(count)}});
    at += count;
    *past += static_cast<int64_t>(count);
  }
  const std::vector<float> logits = model->Logits();
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

}  // namespace

void Generate(const GenerateOptions& options) {
  const auto start = Clock::now();
  LanguageModel model(options.artefact);
  std::fprintf(stderr, "load     %.2f s\n", SecondsSince(start));
  const auto begin = Clock::now();
  int64_t past = 0;
  int64_t token = Take(&model, options.ids, &past);
  const double first_s = SecondsSince(begin);
  const std::vector<int64_t>& stops = model.description().stop_tokens;
  int64_t made = 0;
  while (made < options.max_new_tokens &&
         std::find(stops.begin(), stops.end(), token) == stops.end()) {
    std::printf("%s%lld", made == 0 ? "" : ",", static_cast<long long>(token));
    std::fflush(stdout);
    ++made;
    if (made == options.max_new_tokens || past == model.description().capacity) break;
    token = Take(&model, {token}, &past);
  }
  std::printf("\n");
  const double decode_s = SecondsSince(begin) - first_s;
  std::fprintf(stderr, "prefill  %zu tokens, first token after %.3f s\n", options.ids.size(),
               first_s);
  if (made > 1)
    std::fprintf(stderr, "decode   %.1f token/s\n", static_cast<double>(made - 1) / decode_s);
}

}  // namespace hetero_tvm::device
