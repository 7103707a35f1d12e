/*!
 * \file npu/region.h
 * \brief What an NPU region is, as the compiler describes it.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_REGION_H_
#define HETERO_TVM_RUNTIME_NPU_REGION_H_

#include <tvm/ffi/string.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "context_folder.h"
#include "weight_part.h"

namespace hetero_tvm::runtime::npu {

/*! \brief One input or output, with a fixed shape. */
struct TensorSpec {
  std::string name;  // in the ONNX model
  std::string dtype_name;
  DLDataType dtype;
  std::vector<int64_t> shape;
  size_t bytes;
};

/*! \brief A weight that is not in the model: where it lies in the artefact's weight part. */
struct OutsideWeight {
  TensorSpec spec;
  uint64_t offset;
};

/*! \brief One ONNX model that runs as one function. */
struct Region {
  std::string symbol;
  std::string provider;  // "cpu" or "qnn"
  std::map<std::string, std::string> options;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::string_view model;         // the ONNX file's bytes
  std::vector<SharedFile> files;  // weights that the model may refer to, as ONNX's external data
  std::vector<OutsideWeight> outside;       // as the model's external data too
  std::shared_ptr<WeightPart> part;         // where those are
  std::shared_ptr<ContextFolder> contexts;  // null: a compiled model has its binary inside
  bool has_substitute = false;  // another model does the same with ONNX Runtime's CPU provider
  bool is_standby = false;      // nothing calls it unless something is missing
  // For each of the module's targets, the pieces that its model is put together from; empty: the
  // model is one, for all.
  std::vector<std::vector<int64_t>> binaries;
};

/*!
 * \brief The regions that a JSON header describes; `model` is left for the caller.
 *
 *   {"regions": [{"symbol": "npu_region_0", "provider": "qnn", "options": {"soc_model": "57"},
 *                 "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 8]}], "outputs":
 * [...]}]}
 *
 * A region's "weights", where it has some, are tensors with an "offset" too.
 *
 * Throws ValueError saying which region and which key is wrong.
 */
std::vector<Region> ParseRegions(const tvm::ffi::String& json);

/*!
 * \brief Names in the header's `list`; none where it has none. Throws as ParseRegions.
 *
 * "files" are weights that several models refer to, "contexts" binaries that several compiled
 * models have in common, "pieces" what models are put together from.
 */
std::vector<std::string> ParseNames(const tvm::ffi::String& json, const char* list);

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_REGION_H_
