/*!
 * \file npu/region.h
 * \brief What an NPU region is, as the compiler describes it.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_REGION_H_
#define HETERO_TVM_RUNTIME_NPU_REGION_H_

#include <tvm/ffi/string.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace hetero_tvm::runtime::npu {

/*! \brief One input or output, with a fixed shape. */
struct TensorSpec {
  std::string name;  // in the ONNX model
  std::string dtype_name;
  DLDataType dtype;
  std::vector<int64_t> shape;
  size_t bytes;
};

/*! \brief Weights that several regions' models refer to, as ONNX's external data. */
struct SharedFile {
  std::string name;
  std::string_view content;
};

/*! \brief One ONNX model that runs as one function. */
struct Region {
  std::string symbol;
  std::string provider;  // "cpu" or "qnn"
  std::map<std::string, std::string> options;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::string_view model;         // the ONNX file's bytes
  std::vector<SharedFile> files;  // that the model may refer to
};

/*!
 * \brief The regions that a JSON header describes; `model` is left for the caller.
 *
 *   {"regions": [{"symbol": "npu_region_0", "provider": "qnn", "options": {"soc_model": "57"},
 *                 "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 8]}], "outputs":
 * [...]}]}
 *
 * Throws ValueError saying which region and which key is wrong.
 */
std::vector<Region> ParseRegions(const tvm::ffi::String& json);

/*! \brief Names in the header's "files"; none where it has none. Throws as ParseRegions. */
std::vector<std::string> ParseFiles(const tvm::ffi::String& json);

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_REGION_H_
