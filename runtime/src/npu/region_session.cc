/*!
 * \file npu/region_session.cc
 * \brief What every region's tensors have to be.
 */
#include "region_session.h"

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>

#include <cstring>
#include <sstream>
#include <string>

#include "../check.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace ffi = tvm::ffi;

bool HostVisible(DLDeviceType type) {
  return type == kDLCPU || type == kDLOpenCL || type == kDLExtDev;
}

bool IsDense(const DLTensor& tensor) {
  if (tensor.strides == nullptr) return true;
  int64_t expected = 1;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    if (tensor.shape[axis] != 1 && tensor.strides[axis] != expected) return false;
    expected *= tensor.shape[axis];
  }
  return true;
}

std::string Describe(DLDataType dtype, const int64_t* shape, size_t axes) {
  std::ostringstream text;
  text << std::string(ffi::DLDataTypeToString(dtype)) << "[";
  for (size_t axis = 0; axis < axes; ++axis) text << (axis == 0 ? "" : ", ") << shape[axis];
  text << "]";
  return text.str();
}

void CheckTensor(const Region& region, const TensorSpec& spec, const DLTensor& tensor) {
  const auto axes = static_cast<size_t>(tensor.ndim);
  const bool same =
      OnnxType(tensor.dtype) == OnnxType(spec.dtype) && axes == spec.shape.size() &&
      (axes == 0 || std::memcmp(tensor.shape, spec.shape.data(), axes * sizeof(int64_t)) == 0);
  if (!same) {
    TVM_FFI_THROW(ValueError) << "NPU region " << region.symbol << ": tensor '" << spec.name
                              << "' is " << Describe(tensor.dtype, tensor.shape, axes) << ", not "
                              << Describe(spec.dtype, spec.shape.data(), spec.shape.size());
  }
  HETERO_CHECK(IsDense(tensor), ValueError)
      << "NPU region " << region.symbol << ": tensor '" << spec.name
      << "' has gaps between its elements; make it contiguous";
  HETERO_CHECK(HostVisible(tensor.device.device_type), ValueError)
      << "NPU region " << region.symbol << ": tensor '" << spec.name
      << "' lies on a device whose memory the NPU cannot see";
}

}  // namespace

int OnnxType(DLDataType type) {
  if (type.lanes != 1) return 0;
  struct Known {
    uint8_t code;
    uint8_t bits;
    int onnx;
  };
  constexpr Known kKnown[] = {
      {kDLFloat, 32, 1}, {kDLUInt, 8, 2},     {kDLInt, 8, 3},     {kDLUInt, 16, 4},
      {kDLInt, 16, 5},   {kDLInt, 32, 6},     {kDLInt, 64, 7},    {kDLBool, 8, 9},
      {kDLUInt, 1, 9},   {kDLFloat, 16, 10},  {kDLFloat, 64, 11}, {kDLUInt, 32, 12},
      {kDLUInt, 64, 13}, {kDLBfloat, 16, 16},
  };
  for (const Known& known : kKnown) {
    if (known.code == type.code && known.bits == type.bits) return known.onnx;
  }
  return 0;
}

RegionSession::RegionSession(const Region& region) : region_(region) {
  for (const auto* specs : {&region.inputs, &region.outputs}) {
    for (const TensorSpec& spec : *specs) {
      HETERO_CHECK(OnnxType(spec.dtype) != 0, ValueError)
          << "NPU module: region " << region.symbol << ", tensor '" << spec.name
          << "': ONNX has no " << spec.dtype_name;
    }
  }
}

void RegionSession::CheckTensors(const std::vector<const DLTensor*>& tensors) const {
  const size_t inputs = region_.inputs.size();
  HETERO_CHECK(tensors.size() == inputs + region_.outputs.size(), TypeError)
      << "NPU region " << region_.symbol << " takes " << inputs << " inputs and "
      << region_.outputs.size() << " outputs, got " << tensors.size() << " tensors";
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorSpec& spec = i < inputs ? region_.inputs[i] : region_.outputs[i - inputs];
    CheckTensor(region_, spec, *tensors[i]);
  }
}

}  // namespace hetero_tvm::runtime::npu
