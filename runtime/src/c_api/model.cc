/*!
 * \file c_api/model.cc
 * \brief Loading and running with TVM's virtual machine, by the names that TVM registers.
 */
#include "model.h"

#include <tvm/ffi/container/array.h>
#include <tvm/runtime/device_api.h>

#include <cstring>
#include <utility>

#include "../check.h"
#include "../imported.h"
#include "../whole_call.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

/*! \brief Copy `from`, which lies in `axes` order, to C order. Sizes are of the result. */
void Permute(const char* from, char* to, const BorderTensor& tensor) {
  struct Axis {
    size_t extent;
    size_t stride;  // in the memory, in bytes
    size_t at;
  };
  const size_t item = (tensor.dtype.bits * tensor.dtype.lanes + 7U) / 8U;
  // numpy.transpose(memory, axes): axis i of the result is axis axes[i] of the memory.
  std::vector<Axis> axes;
  axes.reserve(tensor.shape.size());
  for (const int64_t size : tensor.shape) axes.push_back({static_cast<size_t>(size), 0, 0});
  size_t stride = item;
  for (size_t lies = axes.size(); lies-- > 0; /* innermost of the memory first */) {
    for (size_t i = 0; i < axes.size(); ++i) {
      if (static_cast<size_t>(tensor.axes[i]) != lies) continue;
      axes[i].stride = stride;
      stride *= axes[i].extent;
    }
  }
  size_t offset = 0;
  for (size_t written = 0; written < tensor.bytes; written += item) {
    std::memcpy(to + written, from + offset, item);
    for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
      offset += axis->stride;
      if (++axis->at < axis->extent) break;
      offset -= axis->stride * axis->extent;
      axis->at = 0;
    }
  }
}

}  // namespace

Model::Model(const std::string& path)
    : manifest_(Manifest::ReadModel(path)), machine_(LoadMachine(path, &manifest_)) {
  Choose(manifest_.programs.size() - 1);
}

void Model::Choose(size_t program) {
  const Program& one = manifest_.programs[program];
  main_ = FunctionOf(machine_.functions, one.function);
  inputs_.clear();
  outputs_.clear();
  for (const BorderTensor& input : one.inputs) {
    inputs_.push_back(NewTensor(input, machine_.device));
  }
  is_set_.assign(one.inputs.size(), false);
  chosen_ = program;
}

void Model::SetLength(int64_t length) {
  const std::scoped_lock lock(mutex_);
  std::string built;
  for (size_t i = 0; i < manifest_.programs.size(); ++i) {
    if (manifest_.programs[i].length == length) return Choose(i);
    built += (i == 0 ? "" : ", ") + std::to_string(manifest_.programs[i].length);
  }
  HETERO_CHECK(manifest_.programs.back().length == 0, ValueError)
      << "length " << length << ": built are " << built;
  TVM_FFI_THROW(ValueError) << "the artefact was built without --length";
}

void Model::SetInput(size_t index, const void* data, size_t bytes) {
  const std::scoped_lock lock(mutex_);
  HETERO_CHECK(index < inputs_.size(), ValueError)
      << "input " << index << ": the model has " << inputs_.size();
  const BorderTensor& spec = program().inputs[index];
  HETERO_CHECK(bytes == spec.bytes, ValueError)
      << "input " << spec.name << ": " << bytes << " bytes, the model takes " << spec.bytes;
  SetBytes(inputs_[index], data, bytes);
  is_set_[index] = true;
}

void Model::Run() {
  const std::scoped_lock lock(mutex_);
  for (size_t i = 0; i < is_set_.size(); ++i) {
    HETERO_CHECK(is_set_[i], ValueError) << "input " << program().inputs[i].name << " was not set";
  }
  outputs_.clear();
  std::vector<ffi::AnyView> args;
  args.reserve(inputs_.size());
  for (const ffi::Tensor& input : inputs_) args.emplace_back(input);
  const ffi::Any result =
      WholeCall(Context::Get(), main_, args.data(), static_cast<int32_t>(args.size()));
  if (auto one = result.try_cast<ffi::Tensor>()) {
    outputs_.push_back(*std::move(one));
  } else {
    for (const ffi::Tensor& output : result.cast<ffi::Array<ffi::Tensor>>()) {
      outputs_.push_back(output);
    }
  }
  TVM_FFI_ICHECK_EQ(outputs_.size(), program().outputs.size());
}

void Model::GetOutput(size_t index, void* data, size_t bytes) {
  const std::scoped_lock lock(mutex_);
  const std::vector<BorderTensor>& specs = program().outputs;
  HETERO_CHECK(index < specs.size(), ValueError)
      << "output " << index << ": the model has " << specs.size();
  HETERO_CHECK(!outputs_.empty(), ValueError) << "output " << specs[index].name << ": not run yet";
  const BorderTensor& spec = specs[index];
  HETERO_CHECK(bytes == spec.bytes, ValueError)
      << "output " << spec.name << ": " << bytes << " bytes, the model gives " << spec.bytes;
  const auto copy = [&](void* to) {
    Imported("runtime.TVMTensorCopyToBytes")(outputs_[index], to, static_cast<int64_t>(bytes));
  };
  if (spec.axes.empty()) return copy(data);
  std::vector<char> lying(bytes);
  copy(lying.data());
  Permute(lying.data(), static_cast<char*>(data), spec);
}

}  // namespace hetero_tvm::runtime
