/*!
 * \file device/generate.h
 * \brief A language model that continues a prompt, by token ids.
 */
#ifndef HETERO_TVM_DEVICE_GENERATE_H_
#define HETERO_TVM_DEVICE_GENERATE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace hetero_tvm::device {

struct GenerateOptions {
  std::string artefact;
  std::vector<int64_t> ids;  // of the prompt
  int64_t max_new_tokens = 16;
};

/*! \brief Print the likeliest tokens as they come, then how long it took. Text is for a caller. */
void Generate(const GenerateOptions& options);

}  // namespace hetero_tvm::device

#endif  // HETERO_TVM_DEVICE_GENERATE_H_
