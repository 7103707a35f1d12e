/*!
 * \file npu/npu_module.cc
 * \brief NPU modules: made by the compiler, saved, loaded, called.
 */
#include "npu_module.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/container/tensor.h>

#include <utility>

#include "../check.h"
#include "../wire.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace ffi = tvm::ffi;

constexpr std::string_view kMagic = "hetero_npu 1";

}  // namespace

NpuModule::NpuModule(const NpuServices& services, const ffi::String& header,
                     std::vector<std::string> models)
    : services_(services),
      header_(header),
      models_(std::move(models)),
      regions_(ParseRegions(header)) {
  HETERO_CHECK(models_.size() == regions_.size(), ValueError)
      << "NPU module: " << regions_.size() << " regions but " << models_.size() << " models";
  for (size_t i = 0; i < regions_.size(); ++i) {
    regions_[i].model = models_[i];
    const bool is_new = sessions_
                            .emplace(regions_[i].symbol, std::make_unique<RegionSession>(
                                                             services.environment, regions_[i]))
                            .second;
    HETERO_CHECK(is_new, ValueError) << "NPU module: two regions are called " << regions_[i].symbol;
  }
}

ffi::Module NpuModule::Create(const NpuServices& services, const ffi::String& header,
                              const ffi::Array<ffi::Bytes>& models) {
  std::vector<std::string> copies;  // an Array gives its items by value: a view would dangle
  for (const ffi::Bytes& model : models) copies.emplace_back(model.data(), model.size());
  return ffi::Module(ffi::make_object<NpuModule>(services, header, std::move(copies)));
}

ffi::Module NpuModule::Load(const NpuServices& services, const ffi::Bytes& bytes) {
  WireReader reader({bytes.data(), bytes.size()}, "NPU module");
  HETERO_CHECK(reader.Text() == kMagic, ValueError)
      << "NPU module of another version of hetero_tvm; build the model again";
  const ffi::String header{std::string(reader.Text())};
  std::vector<std::string> models;
  for (auto left = reader.Count(8); left > 0; --left) models.emplace_back(reader.Text());
  reader.ExpectEnd();
  return ffi::Module(ffi::make_object<NpuModule>(services, header, std::move(models)));
}

ffi::Bytes NpuModule::SaveToBytes() const {
  WireWriter writer;
  writer.Text(kMagic);
  writer.Text(header_);
  writer.Number<uint64_t>(models_.size());
  for (const std::string& model : models_) writer.Text(model);
  return {writer.Finish()};
}

bool NpuModule::ImplementsFunction(const ffi::String& name) {
  return sessions_.count(std::string(name)) != 0;
}

ffi::Optional<ffi::Function> NpuModule::GetFunction(const ffi::String& name) {
  const auto found = sessions_.find(std::string(name));
  if (found == sessions_.end()) return std::nullopt;
  auto self = ffi::GetObjectPtr<NpuModule>(this);
  RegionSession& session = *found->second;
  return ffi::Function::FromPacked(
      [self, &session](ffi::PackedArgs args, ffi::Any*) { self->Run(session, args); });
}

void NpuModule::Run(RegionSession& session, ffi::PackedArgs args) {
  std::vector<const DLTensor*> tensors;
  tensors.reserve(static_cast<size_t>(args.size()));
  for (int i = 0; i < args.size(); ++i) tensors.push_back(args[i].cast<DLTensor*>());
  services_.wait_for_gpu();
  session.Run(tensors);
  services_.counters.npu_runs.Add();
}

void NpuModule::Prepare() {
  for (const Region& region : regions_) sessions_.at(region.symbol)->Prepare();
}

}  // namespace hetero_tvm::runtime::npu
