/*!
 * \file untrusted.h
 * \brief Descriptions that came with a file: limits that hold before anything is made of them.
 */
#ifndef HETERO_TVM_RUNTIME_UNTRUSTED_H_
#define HETERO_TVM_RUNTIME_UNTRUSTED_H_

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/string.h>

#include <cstdint>
#include <string>
#include <vector>

namespace hetero_tvm::runtime {

constexpr size_t kMaxJsonDepth = 64;              // ours have six levels; TVM's parser recurses
constexpr size_t kMaxRank = 16;                   // as in hetero_tvm/frontend/read_model.py
constexpr uint64_t kMaxTensorBytes = 1ULL << 40;  // more than any device has

/*!
 * \brief The JSON object that `text` is.
 *
 * Throws ValueError, beginning with `where`, if it is none or nests too deep.
 */
tvm::ffi::json::Object ParseDescription(const tvm::ffi::String& text, const std::string& where);

/*!
 * \brief Bytes of a dense tensor.
 *
 * Throws ValueError, beginning with `where`, for what none can have: a negative dimension, too many
 * of them, more bytes than any memory, elements of no bits or of several lanes.
 */
size_t TensorBytes(const std::vector<int64_t>& shape, DLDataType dtype, const std::string& where);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_UNTRUSTED_H_
