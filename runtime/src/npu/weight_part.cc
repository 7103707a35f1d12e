/*!
 * \file npu/weight_part.cc
 * \brief Mapping of an artefact's weights, and ONNX Runtime's values on them.
 */
#include "weight_part.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <tvm/ffi/error.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "../check.h"
#include "region.h"
#include "region_session.h"

namespace hetero_tvm::runtime::npu {

WeightPart::~WeightPart() {
  values_.clear();  // they point into it
  if (mapped_ != nullptr) munmap(mapped_, bytes_);
}

void WeightPart::Map(const std::string& path, uint64_t offset, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  if (mapped_ != nullptr) return;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  // Private: whoever replaces the file by another, as every build does, changes nothing here.
  void* found =
      file < 0 ? MAP_FAILED
               : mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, static_cast<off_t>(offset));
  const int why = errno;
  if (file >= 0) close(file);
  HETERO_CHECK(found != MAP_FAILED, EnvironmentProblem)
      << path << ": its weights (" << bytes << " bytes) cannot be mapped: " << std::strerror(why);
  mapped_ = found;
  bytes_ = bytes;
}

std::string_view WeightPart::ContentLocked() const {
  HETERO_CHECK(mapped_ != nullptr, ValueError)
      << "NPU module: its weights lie in the artefact, and nobody has mapped them "
         "(hetero_tvm.npu_weights_map)";
  return {static_cast<const char*>(mapped_), bytes_};
}

std::string_view WeightPart::Content() {
  const std::scoped_lock lock(mutex_);
  return ContentLocked();
}

const OrtValue* WeightPart::Value(const OrtApi& api, const OrtMemoryInfo* memory,
                                  const OutsideWeight& weight) {
  const std::scoped_lock lock(mutex_);
  const std::string_view content = ContentLocked();
  const TensorSpec& spec = weight.spec;
  HETERO_CHECK(weight.offset <= content.size() && spec.bytes <= content.size() - weight.offset,
               ValueError)
      << "NPU module: weight '" << spec.name << "' (" << spec.bytes << " bytes at " << weight.offset
      << ") lies outside of the artefact's " << content.size() << " bytes";
  Key key{weight.offset, OnnxType(spec.dtype), spec.shape};
  const auto known = values_.find(key);
  if (known != values_.end()) return known->second.Get();
  // Only read, whatever the type says.
  void* data = const_cast<char*>(content.data()) + weight.offset;
  OrtValue* value = nullptr;
  api.Check(api.CreateTensorWithDataAsOrtValue(memory, data, spec.bytes, spec.shape.data(),
                                               spec.shape.size(), OnnxType(spec.dtype), &value),
            value, "NPU weight '" + spec.name + "': CreateTensorWithDataAsOrtValue");
  return values_.emplace(std::move(key), OrtHandle<OrtValue>(value, api.ReleaseValue))
      .first->second.Get();
}

void WeightPart::Forget() {
  const std::scoped_lock lock(mutex_);
  if (mapped_ != nullptr) madvise(mapped_, bytes_, MADV_DONTNEED);  // advice: it may be declined
}

OrtPrepackedWeightsContainer* WeightPart::Packed(const OrtApi& api) {
  const std::scoped_lock lock(mutex_);
  if (packed_.Get() == nullptr) {
    OrtPrepackedWeightsContainer* made = nullptr;
    api.Check(api.CreatePrepackedWeightsContainer(&made), made, "CreatePrepackedWeightsContainer");
    packed_ = OrtHandle<OrtPrepackedWeightsContainer>(made, api.ReleasePrepackedWeightsContainer);
  }
  return packed_.Get();
}

}  // namespace hetero_tvm::runtime::npu
