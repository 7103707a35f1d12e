/*!
 * \file npu/npu_module.cc
 * \brief NPU modules: made by the compiler, saved, loaded, called.
 */
#include "npu_module.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/container/tensor.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "../border.h"
#include "../check.h"
#include "../watch.h"
#include "../wire.h"
#include "durable_session.h"
#include "null_session.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace ffi = tvm::ffi;

constexpr std::string_view kMagic = "hetero_npu 1";
constexpr const char* kNoSubstitutes =
    "; without its NPU it does not run: build with --with-fallback, then run with --allow-fallback";
constexpr const char* kNotAllowed =
    "; --allow-fallback (HETERO_ALLOW_FALLBACK=1) has its NPU part computed on the CPU";

/*! \brief One run of one region. */
class RegionJob : public Job {
 public:
  RegionJob(ffi::ObjectPtr<NpuModule> module, const NpuServices& services, RegionSession& session,
            std::vector<const DLTensor*> tensors)
      : module_(std::move(module)),
        services_(services),
        session_(session),
        tensors_(std::move(tensors)),
        gpu_ticket_(services.gpu_ticket()),
        call_(Trace::CurrentCall()) {}

  void Keep(ffi::Tensor tensor) { kept_.push_back(std::move(tensor)); }

  void Run() final {
    {
      const TraceSpan span(services_.trace, TraceKind::kWait, "wait", WaitDetail(2, 1), call_);
      services_.wait_for_gpu(gpu_ticket_);
    }
    const TraceSpan span(services_.trace, TraceKind::kRegion, session_.region().symbol, 0, call_);
    const WorkGuard work(session_.region().symbol.c_str());
    const OnExpiry hung([this](const char* call) { GiveUp(call); });
    session_.Run(tensors_);
    services_.counters.npu_runs.Add();
  }

  Prediction& Expected() final { return session_.expected(); }

 private:
  /*! \brief Called by the thread that watches, while this one is inside `call`. */
  void GiveUp(const char* call) {
    if (!session_.IsLimited()) return;
    const std::string what =
        "NPU region " + session_.region().symbol + ": " + call + " has not come back in time";
    session_.Abandon(what);
    services_.worker.Abandon(std::make_exception_ptr(ffi::Error(
        "DeviceFailure", what + "; run it again, without the NPU (HETERO_DEVICE_LIMIT_S)", "")));
  }

  const ffi::ObjectPtr<NpuModule> module_;  // keeps session_
  const NpuServices& services_;
  RegionSession& session_;
  const std::vector<const DLTensor*> tensors_;
  const uint64_t gpu_ticket_;
  const int64_t call_;             // of the virtual machine's, for the trace
  std::vector<ffi::Tensor> kept_;  // what tensors_ points to, where that can be kept
};

}  // namespace

NpuModule::NpuModule(const NpuServices& services, const ffi::String& header,
                     std::vector<std::string> models)
    : services_(services),
      header_(header),
      models_(std::move(models)),
      regions_(ParseRegions(header)) {
  size_t next = 0;
  const auto take = [&](const char* what) -> std::string_view {
    HETERO_CHECK(next < models_.size(), ValueError)
        << "NPU module: its header describes more " << what << " than there are";
    return models_[next++];
  };
  for (Region& region : regions_) {
    if (region.binaries.empty()) region.model = take("models");
  }
  substitutes_.reserve(regions_.size());
  for (Region& region : regions_) {
    region.part = part_;
    if (!region.has_substitute && region.provider != "cpu") continue;
    Region substitute = region;
    substitute.provider = "cpu";
    if (region.has_substitute) {
      substitute.model = take("models");
      substitute.options.clear();  // they are the NPU's
      substitute.binaries.clear();
    }
    substitutes_.emplace(region.symbol, std::move(substitute));
  }
  const auto named = [&](const char* list) {
    std::vector<SharedFile> files;
    for (const std::string& name : ParseNames(header, list)) files.push_back({name, take("files")});
    return files;
  };
  const std::vector<SharedFile> files = named("files");
  std::vector<SharedFile> binaries = named("contexts");
  for (const SharedFile& piece : named("pieces")) pieces_.push_back(piece.content);
  HETERO_CHECK(models_.size() == next, ValueError)
      << "NPU module: " << next << " models and files are described, " << models_.size()
      << " are there";
  Choose();
  std::shared_ptr<ContextFolder> contexts;
  if (!binaries.empty()) contexts = std::make_shared<ContextFolder>(std::move(binaries));
  for (Region& region : regions_) {
    if (region.provider == "cpu") region.files = files;  // others have them inside
    region.contexts = contexts;
    const auto substitute = substitutes_.find(region.symbol);
    if (substitute != substitutes_.end()) {
      substitute->second.files = files;
      substitute->second.contexts = nullptr;  // it is complete in memory
    }
    const bool is_new = sessions_.emplace(region.symbol, MakeSession(region)).second;
    HETERO_CHECK(is_new, ValueError) << "NPU module: two regions are called " << region.symbol;
  }
}

/*! \brief Give each region the options and the binary of the target that this machine is. */
void NpuModule::Choose() {
  const std::vector<NpuTarget> targets = ParseTargets(header_);
  size_t at = 0;
  const std::string unfit = services_.environment.settings().Get("npu.unfit");
  if (!unfit.empty()) no_target_ = ffi::Error("EnvironmentProblem", unfit, "");
  if (!targets.empty() && !no_target_.has_value()) {
    try {
      at = PickTarget(targets, services_.environment.settings());
    } catch (const ffi::Error& error) {
      no_target_ = error;
    }
  }
  chosen_.reserve(regions_.size());
  for (Region& region : regions_) {
    if (region.provider != "qnn") continue;
    if (!targets.empty()) region.options = targets[at].options;
    if (region.binaries.empty()) continue;
    HETERO_CHECK(region.binaries.size() == targets.size(), ValueError)
        << "NPU module: region " << region.symbol << " has " << region.binaries.size()
        << " binaries for " << targets.size() << " targets";
    std::string model;
    for (const std::vector<int64_t>& binary : region.binaries) {
      for (const int64_t piece : binary) {
        HETERO_CHECK(piece >= 0 && static_cast<size_t>(piece) < pieces_.size(), ValueError)
            << "NPU module: region " << region.symbol << " has no piece " << piece;
      }
    }
    if (no_target_.has_value()) continue;
    for (const int64_t piece : region.binaries[at]) model += pieces_[static_cast<size_t>(piece)];
    chosen_.push_back(std::move(model));
    region.model = chosen_.back();
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
  return AtBorder([&]() -> ffi::Bytes {
    WireWriter writer;
    writer.Text(kMagic);
    writer.Text(header_);
    writer.Number<uint64_t>(models_.size());
    for (const std::string& model : models_) writer.Text(model);
    return {writer.Finish()};
  });
}

bool NpuModule::ImplementsFunction(const ffi::String& name) {
  return AtBorder([&] { return sessions_.count(std::string(name)) != 0; });
}

ffi::Optional<ffi::Function> NpuModule::GetFunction(const ffi::String& name) {
  return AtBorder([&]() -> ffi::Optional<ffi::Function> {
    const auto found = sessions_.find(std::string(name));
    if (found == sessions_.end()) return std::nullopt;
    auto self = ffi::GetObjectPtr<NpuModule>(this);
    RegionSession& session = *found->second;
    return Shielded(ffi::Function::FromPacked(
        [self, &session](ffi::PackedArgs args, ffi::Any*) { self->Run(session, args); }));
  });
}

std::unique_ptr<RegionSession> NpuModule::MakeSession(const Region& region) {
  if (region.provider == "null") return std::make_unique<NullRegionSession>(region);
  const auto substitute = substitutes_.find(region.symbol);
  const Region* other = substitute == substitutes_.end() ? nullptr : &substitute->second;
  return std::make_unique<DurableSession>(
      services_.environment, services_.counters, services_.health, region, other,
      [this] { return std::make_shared<ffi::Module>(ffi::GetRef<ffi::Module>(this)); });
}

void NpuModule::Run(RegionSession& session, ffi::PackedArgs args) {
  std::vector<const DLTensor*> tensors;
  tensors.reserve(static_cast<size_t>(args.size()));
  for (int i = 0; i < args.size(); ++i) tensors.push_back(args[i].cast<DLTensor*>());
  session.CheckTensors(tensors);
  PrepareOne(session);
  const TraceSpan span(services_.trace, TraceKind::kSubmit, session.region().symbol);
  bool wait = services_.options.implicit_waits.load(std::memory_order_relaxed);
  if (wait) services_.wait_for_gpu(services_.ticket_of_all_of_gpu());
  auto job = std::make_unique<RegionJob>(ffi::GetObjectPtr<NpuModule>(this), services_, session,
                                         std::move(tensors));
  for (int i = 0; i < args.size(); ++i) {
    const bool can_be_kept = args[i].type_index() == ffi::TypeIndex::kTVMFFITensor;
    if (can_be_kept) job->Keep(args[i].cast<ffi::Tensor>());
    const bool can_be_waited_for = args[i].cast<DLTensor*>()->device.device_type != kDLCPU;
    wait = wait || !can_be_kept || !can_be_waited_for;
  }
  const uint64_t ticket = services_.worker.Submit(std::move(job));
  if (wait) services_.worker.Wait(ticket);
}

void NpuModule::MapWeights(const std::string& path, uint64_t offset, uint64_t bytes) {
  const bool has_some = std::any_of(regions_.begin(), regions_.end(),
                                    [](const Region& region) { return !region.outside.empty(); });
  if (has_some) part_->Map(path, offset, bytes);
}

void NpuModule::Prepare() {
  for (const Region& region : regions_) {
    if (!region.is_standby) PrepareOne(*sessions_.at(region.symbol));
  }
}

void NpuModule::PrepareOne(RegionSession& session) {
  if (session.region().provider != "qnn") return session.Prepare();
  try {
    bool is_replaced = false;
    {
      const std::scoped_lock lock(replacing_);
      is_replaced = is_replaced_;
    }
    if (no_target_.has_value() && !is_replaced) throw ffi::Error(*no_target_);
    session.Prepare();
  } catch (const ffi::Error& error) {
    const bool is_missing = error.kind() == "DeviceFailure" || error.kind() == "EnvironmentProblem";
    if (!is_missing && !no_target_.has_value()) throw;  // a fault of the artefact
    Replace(error);
    session.Prepare();
  }
}

/*! \brief Put all substitutes in; throws `why`, with what would help, where they are not allowed.
 */
void NpuModule::Replace(const ffi::Error& why) {
  const std::scoped_lock lock(replacing_);
  if (is_replaced_) throw ffi::Error(why);  // then it is the substitutes that fail
  std::vector<DurableSession*> sessions;
  std::string names;
  for (const Region& region : regions_) {
    if (region.provider != "qnn") continue;
    if (!region.has_substitute) {
      throw ffi::Error(why.kind(), why.message() + kNoSubstitutes, why.backtrace());
    }
    sessions.push_back(static_cast<DurableSession*>(sessions_.at(region.symbol).get()));
    names += (names.empty() ? "" : ", ") + region.symbol;
  }
  if (!services_.fallbacks.AreAllowed()) {
    throw ffi::Error(why.kind(), why.message() + kNotAllowed, why.backtrace());
  }
  for (DurableSession* session : sessions) session->Replace();
  is_replaced_ = true;
  services_.fallbacks.Tell("the NPU is not used, ONNX Runtime computes its part on the CPU (" +
                           names + "): " + why.message());
}

}  // namespace hetero_tvm::runtime::npu
