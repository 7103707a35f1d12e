/*!
 * \file device/run.cc
 * \brief Files into device memory, the virtual machine's function, files out of it.
 */
#include "run.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../src/c_api/machine.h"
#include "../src/imported.h"
#include "../src/whole_call.h"
#include "npy.h"

namespace hetero_tvm::device {
namespace {

namespace ffi = tvm::ffi;
using runtime::FunctionOf;
using runtime::Imported;
using runtime::Program;

constexpr DLDevice kHost{kDLCPU, 0};

ffi::Tensor Allocate(const std::vector<int64_t>& shape, DLDataType dtype, DLDevice device) {
  static const ffi::Function allocate = Imported("runtime.TVMTensorAllocWithScope");
  return allocate(ffi::Shape(shape), dtype, device, nullptr).cast<ffi::Tensor>();
}

void Copy(const ffi::Tensor& from, const ffi::Tensor& to) {
  static const ffi::Function copy = Imported("runtime.TVMTensorCopyFromTo");
  copy(from, to);
}

double MillisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

std::vector<ffi::Tensor> Inputs(const RunOptions& options, const Program& artefact,
                                DLDevice device) {
  if (options.inputs.size() != artefact.inputs.size()) {
    TVM_FFI_THROW(ValueError) << options.inputs.size() << " inputs given, the model takes "
                              << artefact.inputs.size();
  }
  std::vector<ffi::Tensor> tensors;
  for (size_t i = 0; i < artefact.inputs.size(); ++i) {
    const Border& input = artefact.inputs[i];
    const std::string bytes = ReadNpy(options.inputs[i], input);
    const ffi::Tensor host = Allocate(input.shape, input.dtype, kHost);
    std::memcpy(host.data_ptr(), bytes.data(), bytes.size());
    tensors.push_back(Allocate(input.shape, input.dtype, device));
    Copy(host, tensors.back());
  }
  return tensors;
}

/*! \brief The bytes of `found` in the order of `output`'s shape. */
std::string Fetch(const ffi::Tensor& found, const Border& output) {
  std::vector<int64_t> lies(found.shape().begin(), found.shape().end());
  const ffi::Tensor host = Allocate(lies, found.dtype(), kHost);
  Copy(found, host);
  const size_t element = ElementBytes(output.dtype_name);
  size_t count = 1;
  for (const int64_t size : output.shape) count *= static_cast<size_t>(size);
  std::vector<int64_t> described = output.shape;
  for (size_t axis = 0; axis < output.axes.size(); ++axis) {
    described[static_cast<size_t>(output.axes[axis])] = output.shape[axis];
  }
  if (lies != described || ffi::GetDataSize(host) != count * element) {
    TVM_FFI_THROW(ValueError) << "output " << output.name
                              << " is not what the artefact's description says; build it again";
  }
  const auto* data = static_cast<const char*>(host.data_ptr());
  if (output.axes.empty()) return {data, count * element};
  // Axis a of the output is axis axes[a] of what lies in memory.
  const size_t rank = lies.size();
  std::vector<size_t> stride(rank, 1);
  for (size_t axis = rank; axis-- > 1;) {
    stride[axis - 1] = stride[axis] * static_cast<size_t>(lies[axis]);
  }
  std::string bytes(count * element, '\0');
  for (size_t i = 0; i < count; ++i) {
    size_t left = i;
    size_t from = 0;
    for (size_t axis = rank; axis-- > 0;) {
      const auto extent = static_cast<size_t>(output.shape[axis]);
      from += left % extent * stride[static_cast<size_t>(output.axes[axis])];
      left /= extent;
    }
    std::memcpy(bytes.data() + i * element, data + from * element, element);
  }
  return bytes;
}

std::vector<ffi::Tensor> Outputs(const ffi::Any& result) {
  if (const auto tensor = result.try_cast<ffi::Tensor>()) return {*tensor};
  std::vector<ffi::Tensor> tensors;
  for (const ffi::Any& item : result.cast<ffi::Array<ffi::Any>>()) {
    tensors.push_back(item.cast<ffi::Tensor>());
  }
  return tensors;
}

}  // namespace

void Run(const RunOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  runtime::Manifest manifest = runtime::Manifest::ReadModel(options.artefact);
  const runtime::Machine machine = runtime::LoadMachine(options.artefact, &manifest);
  // Built for several lengths: the last one is the longest.
  const Program& artefact = manifest.programs.back();
  const ffi::Function function = FunctionOf(machine.functions, artefact.function);
  const std::vector<ffi::Tensor> inputs = Inputs(options, artefact, machine.device);
  std::vector<ffi::AnyView> arguments(inputs.begin(), inputs.end());
  std::printf("load     %.2f s\n", MillisecondsSince(start) / 1e3);

  ffi::Any result;
  std::vector<double> times;
  for (int64_t i = 0; i <= options.repeat; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    result = runtime::WholeCall(runtime::Context::Get(), function, arguments.data(),
                                static_cast<int32_t>(arguments.size()));
    times.push_back(MillisecondsSince(begin));
  }
  std::printf("first    %.2f ms\n", times[0]);
  if (times.size() > 1) {
    std::sort(times.begin() + 1, times.end());
    std::printf("run      %.2f ms, median of %zu\n", times[1 + (times.size() - 1) / 2],
                times.size() - 1);
  }
  const std::vector<ffi::Tensor> outputs = Outputs(result);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Border& output = artefact.outputs.at(i);
    std::string shape;
    for (const int64_t size : output.shape)
      shape += (shape.empty() ? "" : "x") + std::to_string(size);
    std::printf("output   %s %s %s\n", output.name.c_str(), shape.c_str(),
                output.dtype_name.c_str());
    if (options.save.empty()) continue;
    const std::string file = options.save + "/output_" + std::to_string(i) + ".npy";
    WriteNpy(file, output, Fetch(outputs[i], output));
    std::printf("         in %s\n", file.c_str());
  }
}

}  // namespace hetero_tvm::device
