/*!
 * \file npu/ort_session.cc
 * \brief Building and running of ONNX Runtime sessions on host memory.
 */
#include "ort_session.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "../check.h"
#include "quiet_stdout.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace ffi = tvm::ffi;

constexpr const char* kQnnProvider = "QNNExecutionProvider";
constexpr const char* kQnnHint =
    "this model's NPU regions need Qualcomm's runtime: pip install onnxruntime-qnn==2.7.0";
constexpr int kNoOptimizations = 0;  // ORT_DISABLE_ALL
constexpr int kLogErrorsOnly = 3;

/*! \brief How many threads a region on the host's processor gets; 0 leaves it to ONNX Runtime. */
int Threads(const Settings& settings, const Region& region) {
  const std::string forced = settings.Get("npu.threads");
  const auto option = region.options.find("threads");
  if (forced.empty() && option == region.options.end()) return 0;
  const std::string where = forced.empty() ? "NPU region " + region.symbol + ": option threads"
                                           : std::string("HETERO_NPU_THREADS");
  const std::string& text = forced.empty() ? option->second : forced;
  int count = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), count);
  HETERO_CHECK(parsed.ec == std::errc() && parsed.ptr == text.data() + text.size(), ValueError)
      << where << " is '" << text << "', not a number";
  return count;
}

/*! \brief Whether products of the region read codes of 4-bit weights. Of those that are not packed
 * ONNX Runtime makes a float matrix in every run, which takes dozens of times as long. */
bool HasCodes(const Region& region) {
  return std::any_of(region.outside.begin(), region.outside.end(), [](const OutsideWeight& weight) {
    return weight.spec.dtype.code == kDLUInt && weight.spec.dtype.bits == 8;
  });
}

/*! \brief Whether sessions can have packed weights in common: ONNX Runtime refuses to share those
 * of its float16 products, and to open a session that would have to. */
bool CanSharePacked(const Region& region) {
  return std::none_of(region.outside.begin(), region.outside.end(),
                      [](const OutsideWeight& weight) {
                        return weight.spec.dtype.code == kDLFloat && weight.spec.dtype.bits == 16;
                      });
}

}  // namespace

const OrtApi& OrtEnvironment::Api() {
  const std::scoped_lock lock(mutex_);
  OpenLocked();
  return *api_;
}

void OrtEnvironment::OpenLocked() {
  if (host_memory_.Get() != nullptr) return;
  Watch::Start(settings_);
  if (api_ == nullptr) api_ = OrtApi::Load(settings_.Get("ort.library"));
  OrtEnv* env = nullptr;
  if (env_.Get() == nullptr) {
    api_->Check(api_->CreateEnv(kLogErrorsOnly, "hetero_tvm", &env), env,
                "starting ONNX Runtime (CreateEnv)");
    env_ = OrtHandle<OrtEnv>(env, api_->ReleaseEnv);
  }
  constexpr int kArenaAllocator = 1;
  constexpr int kDefaultMemory = 0;
  OrtMemoryInfo* info = nullptr;
  api_->Check(api_->CreateCpuMemoryInfo(kArenaAllocator, kDefaultMemory, &info), info,
              "starting ONNX Runtime (CreateCpuMemoryInfo)");
  host_memory_ = OrtHandle<OrtMemoryInfo>(info, api_->ReleaseMemoryInfo);
}

std::vector<const OrtEpDevice*> OrtEnvironment::QnnDevices() {
  const std::scoped_lock lock(mutex_);
  if (!qnn_devices_.empty()) return qnn_devices_;
  const std::string library = settings_.Get("qnn.library");
  if (library.empty()) TVM_FFI_THROW(EnvironmentProblem) << kQnnHint;
  if (!has_qnn_) {
    api_->Check(api_->RegisterExecutionProviderLibrary(env_.Get(), kQnnProvider, library.c_str()),
                "loading " + library + " (RegisterExecutionProviderLibrary)");
    has_qnn_ = true;
  }
  const OrtEpDevice* const* devices = nullptr;
  size_t count = 0;
  api_->Check(api_->GetEpDevices(env_.Get(), &devices, &count), "listing NPUs (GetEpDevices)");
  for (size_t i = 0; devices != nullptr && i < count; ++i) {
    const char* name = api_->EpDevice_EpName(devices[i]);
    if (name != nullptr && std::strcmp(name, kQnnProvider) == 0) {
      qnn_devices_.push_back(devices[i]);
    }
  }
  if (qnn_devices_.empty()) {
    TVM_FFI_THROW(EnvironmentProblem) << library << " offers no NPU on this machine; " << kQnnHint;
  }
  return qnn_devices_;
}

void OrtEnvironment::AppendQnn(OrtSessionOptions* options, const Region& region) {
  std::map<std::string, std::string> settings = region.options;
  HETERO_CHECK(settings.count("soc_model") != 0, ValueError)
      << "NPU region " << region.symbol << ": provider qnn needs the option soc_model";
  settings.emplace("backend_path", settings_.Get("qnn.backend"));
  std::vector<const char*> keys;
  std::vector<const char*> values;
  for (const auto& [key, value] : settings) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  const std::vector<const OrtEpDevice*> devices = QnnDevices();
  api_->Check(api_->SessionOptionsAppendExecutionProvider_V2(options, env_.Get(), devices.data(),
                                                             devices.size(), keys.data(),
                                                             values.data(), keys.size()),
              "NPU region " + region.symbol + ": SessionOptionsAppendExecutionProvider_V2");
}

void OrtEnvironment::AddFiles(OrtSessionOptions* options, const Region& region) {
  const std::string where = "NPU region " + region.symbol;
  if (!region.files.empty()) {
    std::vector<const char*> names;
    std::vector<char*> contents;
    std::vector<size_t> sizes;
    for (const SharedFile& file : region.files) {
      names.push_back(file.name.c_str());
      contents.push_back(const_cast<char*>(file.content.data()));  // read only, whatever it says
      sizes.push_back(file.content.size());
    }
    api_->Check(api_->AddExternalInitializersFromFilesInMemory(
                    options, names.data(), contents.data(), sizes.data(), names.size()),
                where + ": AddExternalInitializersFromFilesInMemory");
  }
  if (region.outside.empty()) return;
  std::vector<const char*> names;
  std::vector<const OrtValue*> values;
  for (const OutsideWeight& weight : region.outside) {
    names.push_back(weight.spec.name.c_str());
    values.push_back(region.part->Value(*api_, host_memory_.Get(), weight));
  }
  // In place of the file that the model names. Its bytes would be kept as a copy.
  api_->Check(api_->AddExternalInitializers(options, names.data(), values.data(), names.size()),
              where + ": AddExternalInitializers");
  // Once more: only what sessions share as such is packed once for all of them, or not copied.
  for (size_t i = 0; i < names.size(); ++i) {
    api_->Check(api_->AddInitializer(options, names[i], values[i]), where + ": AddInitializer");
  }
}

OrtHandle<OrtSession> OrtEnvironment::CreateSession(const Region& region) {
  const std::string where = "NPU region " + region.symbol;
  const OrtApi& api = Api();
  OrtSessionOptions* raw_options = nullptr;
  api.Check(api.CreateSessionOptions(&raw_options), raw_options, where + ": CreateSessionOptions");
  const OrtHandle<OrtSessionOptions> owner(raw_options, api.ReleaseSessionOptions);
  api.Check(api.SetSessionLogSeverityLevel(raw_options, kLogErrorsOnly),
            where + ": SetSessionLogSeverityLevel");
  const bool may_copy = settings_.Get("npu.packed") != "0";
  const bool packs = may_copy || HasCodes(region);  // copies of codes are small
  std::unique_lock<std::mutex> qnn;
  if (region.provider == "qnn") {
    // A region that says NPU is on the NPU: without this, parts of it go to the CPU silently.
    api.Check(api.AddSessionConfigEntry(raw_options, "session.disable_cpu_ep_fallback", "1"),
              where + ": AddSessionConfigEntry");
    qnn = std::unique_lock(qnn_mutex_);
    AppendQnn(raw_options, region);
  } else if (region.provider == "cpu") {
    const int threads = Threads(settings_, region);
    if (threads != 0) {
      api.Check(api.SetIntraOpNumThreads(raw_options, threads), where + ": SetIntraOpNumThreads");
    }
    // A weight that is packed is in memory twice: faster, but a check has no use for that.
    if (!packs) {
      api.Check(api.SetSessionGraphOptimizationLevel(raw_options, kNoOptimizations),
                where + ": SetSessionGraphOptimizationLevel");
      api.Check(api.AddSessionConfigEntry(raw_options, "session.disable_prepacking", "1"),
                where + ": AddSessionConfigEntry");
    }
    // Threads that spin after a run would take the processor from the OpenCL kernels that follow.
    api.Check(api.AddSessionConfigEntry(raw_options, "session.intra_op.allow_spinning", "0"),
              where + ": AddSessionConfigEntry");
  } else {
    TVM_FFI_THROW(ValueError) << where << ": unknown provider '" << region.provider
                              << "'; known: cpu, qnn";
  }
  AddFiles(raw_options, region);
  std::filesystem::path file;  // empty: the model is complete in memory
  if (region.contexts != nullptr) {
    // What one session loads of the common binary is there for the others.
    api.Check(api.AddSessionConfigEntry(raw_options, "ep.share_ep_contexts", "1"),
              where + ": AddSessionConfigEntry");
    file =
        region.contexts->Place(settings_.CacheDirectory(), region.symbol + ".onnx", region.model);
  }
  std::optional<QuietStdout> quiet;
  if (region.provider == "qnn") quiet.emplace();
  OrtSession* session = nullptr;
  if (!region.outside.empty() && packs && CanSharePacked(region)) {
    api.Check(api.CreateSessionFromArrayWithPrepackedWeightsContainer(
                  env_.Get(), region.model.data(), region.model.size(), raw_options,
                  region.part->Packed(api), &session),
              session, where + ": CreateSessionFromArrayWithPrepackedWeightsContainer");
  } else if (file.empty()) {
    api.Check(api.CreateSessionFromArray(env_.Get(), region.model.data(), region.model.size(),
                                         raw_options, &session),
              session, where + ": CreateSessionFromArray");
  } else {
    api.Check(api.CreateSession(env_.Get(), file.c_str(), raw_options, &session), session,
              where + ": CreateSession");
  }
  // Where memory counts: loading has read what the region's products read again when they run.
  if (!region.outside.empty() && !may_copy) region.part->Forget();
  counters_.npu_sessions.Add();
  return {session, api.ReleaseSession};
}

OrtRegionSession::OrtRegionSession(OrtEnvironment& environment, const Region& region)
    : RegionSession(region), environment_(environment) {
  for (const auto* specs : {&region.inputs, &region.outputs}) {
    for (const TensorSpec& spec : *specs) {
      bindings_.push_back({&spec, nullptr, {}});
      names_.push_back(spec.name.c_str());
    }
  }
}

void OrtRegionSession::Prepare() {
  if (is_ready_.load(std::memory_order_acquire)) return;
  const std::scoped_lock lock(mutex_);
  if (session_.Get() == nullptr) session_ = environment_.CreateSession(region_);
  is_ready_.store(true, std::memory_order_release);
}

void OrtRegionSession::Bind(Binding& binding, const DLTensor& tensor) {
  char* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  if (binding.data == data && binding.value.Get() != nullptr) return;
  const OrtApi& api = environment_.Api();
  OrtValue* value = nullptr;
  api.Check(api.CreateTensorWithDataAsOrtValue(
                environment_.host_memory(), data, binding.spec->bytes, binding.spec->shape.data(),
                binding.spec->shape.size(), OnnxType(binding.spec->dtype), &value),
            value,
            "NPU region " + region_.symbol + ", tensor '" + binding.spec->name +
                "': CreateTensorWithDataAsOrtValue");
  binding.value = OrtHandle<OrtValue>(value, api.ReleaseValue);
  binding.data = data;
}

void OrtRegionSession::Run(const std::vector<const DLTensor*>& tensors) {
  Prepare();
  std::vector<OrtValue*> values;
  values.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    Bind(bindings_[i], *tensors[i]);
    values.push_back(bindings_[i].value.Get());
  }
  const size_t inputs = region_.inputs.size();
  const OrtApi& api = environment_.Api();
  api.Check(api.Run(session_.Get(), nullptr, names_.data(), values.data(), inputs,
                    names_.data() + inputs, region_.outputs.size(), values.data() + inputs),
            "NPU region " + region_.symbol + ": Run");
}

}  // namespace hetero_tvm::runtime::npu
