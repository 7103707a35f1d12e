/*!
 * \file c_api/language_model.cc
 * \brief As hetero_tvm/llm_session.py does it, for devices without Python; and that for a caller
 *        elsewhere, who gets one function for a session.
 */
#include "language_model.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/string.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "../border.h"
#include "../check.h"
#include "../half.h"
#include "../imported.h"
#include "../remote_calls.h"
#include "../tensor_view.h"
#include "../whole_call.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

/*! \brief A file's bytes, read when they are looked at. */
class Mapped {
 public:
  explicit Mapped(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    HETERO_CHECK(file >= 0, ValueError) << path << ": " << std::strerror(errno);
    size_ = static_cast<size_t>(lseek(file, 0, SEEK_END));
    data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    HETERO_CHECK(data_ != MAP_FAILED, DeviceFailure) << path << ": " << std::strerror(errno);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() { munmap(data_, size_); }

  /*! \brief `bytes` of it; throws where the file has become shorter than its description. */
  const char* At(uint64_t offset, uint64_t bytes) const {
    HETERO_CHECK(offset <= size_ && bytes <= size_ - offset, ValueError) << "the file has changed";
    return static_cast<const char*>(data_) + offset;
  }

 private:
  void* data_;
  size_t size_;
};

std::vector<ffi::Tensor> LoadWeights(const std::string& path, const Manifest& manifest,
                                     DLDevice device) {
  std::vector<ffi::Tensor> tensors(manifest.weights.size());
  if (manifest.weights.empty()) return tensors;
  ffi::Optional<ffi::Tensor> mapped;
  if (device.device_type == kDLOpenCL) {
    mapped = Imported("hetero_tvm.weights_map")(ffi::String(path),
                                                static_cast<int64_t>(manifest.weights_offset),
                                                static_cast<int64_t>(manifest.weights_bytes))
                 .cast<ffi::Optional<ffi::Tensor>>();
  }
  const Mapped file(path);
  for (const Program& program : manifest.programs) {  // what no program takes is the NPU's
    for (const size_t index : program.weights) {
      if (tensors[index].defined()) continue;
      const StoredWeight& weight = manifest.weights[index];
      const BorderTensor& tensor = weight.tensor;
      if (mapped.has_value()) {
        tensors[index] =
            ViewTensorAs(*mapped, static_cast<int64_t>(weight.place),
                         ffi::Shape(tensor.shape.begin(), tensor.shape.end()), tensor.dtype);
        continue;
      }
      tensors[index] = NewTensor(tensor, device);
      SetBytes(tensors[index], file.At(manifest.weights_offset + weight.place, tensor.bytes),
               tensor.bytes);
    }
  }
  return tensors;
}

BorderTensor Whole(const char* name, const char* dtype, int64_t columns) {
  BorderTensor tensor{name, dtype, ffi::StringToDLDataType(dtype), {columns}, {}, 0};
  tensor.bytes = static_cast<size_t>(columns) * (tensor.dtype.bits / 8U);
  return tensor;
}

Manifest ReadLanguageModel(const std::string& path) {
  Manifest manifest = Manifest::Read(path);
  HETERO_CHECK(manifest.llm.has_value(), ValueError) << path << ": no language model; `run` it";
  return manifest;
}

ffi::Tensor FirstOf(const ffi::Any& result) {
  if (auto tensor = result.try_cast<ffi::Tensor>()) return *std::move(tensor);
  return result.cast<ffi::Array<ffi::Tensor>>()[0];
}

}  // namespace

LanguageModel::LanguageModel(const std::string& path)
    : manifest_(ReadLanguageModel(path)),
      description_(manifest_.llm.value_or(LlmDescription{})),  // it is there: read just now
      machine_(LoadMachine(path, &manifest_)) {
  const std::vector<ffi::Tensor> weights = LoadWeights(path, manifest_, machine_.device);
  past_ = NewTensor(Whole("hetero_past", "int32", 1), machine_.device);
  last_ = NewTensor(Whole("hetero_last", "int32", 1), machine_.device);
  std::map<std::string, ffi::Tensor> given{{"hetero_past", past_}, {"hetero_last", last_}};
  for (const BorderTensor& cache : description().caches) {
    const ffi::Tensor tensor = NewTensor(cache, machine_.device);
    // Positions that nobody wrote are never looked at, but may take part as 0 * value.
    SetBytes(tensor, std::vector<char>(cache.bytes).data(), cache.bytes);
    given[cache.name] = tensor;
  }
  for (const Program& program : manifest_.programs) {
    StepOf step{
        program.function, runtime::FunctionOf(machine_.functions, program.function), {}, {}};
    for (const BorderTensor& input : program.inputs) {
      if (input.name == "input_ids") {
        HETERO_CHECK(input.bytes == program.length * sizeof(int64_t), ValueError)
            << program.function << " does not take " << program.length << " tokens";
        step.ids = NewTensor(input, machine_.device);
        step.arguments.push_back(step.ids);
        continue;
      }
      const auto found = given.find(input.name);
      HETERO_CHECK(found != given.end(), ValueError) << program.function << " takes " << input.name;
      step.arguments.push_back(found->second);
    }
    HETERO_CHECK(step.ids.defined(), ValueError) << program.function << " takes no tokens";
    for (const size_t index : program.weights) step.arguments.push_back(weights[index]);
    steps_.emplace(program.length, std::move(step));
  }
}

int64_t LanguageModel::RowsFor(size_t count) const {
  const auto found = steps_.lower_bound(static_cast<int64_t>(count));
  return found == steps_.end() ? steps_.rbegin()->first : found->first;
}

const LanguageModel::StepOf& LanguageModel::Find(int64_t rows) const {
  const auto found = steps_.find(rows);
  HETERO_CHECK(found != steps_.end(), ValueError) << "no step of " << rows << " tokens";
  return found->second;
}

const std::string& LanguageModel::FunctionOf(int64_t rows) const { return Find(rows).name; }

void LanguageModel::Step(const Chunk& chunk) {
  const StepOf& step = Find(chunk.rows);
  const auto count = static_cast<int64_t>(chunk.tokens.size());
  const int64_t room = description().capacity;
  HETERO_CHECK(count > 0 && count <= chunk.rows && chunk.past >= 0 && chunk.past <= room &&
                   count <= room - chunk.past,
               ValueError)
      << count << " tokens behind " << chunk.past << " do not fit a step of " << chunk.rows
      << " and a cache of " << room;
  std::vector<int64_t> ids = chunk.tokens;
  for (const int64_t id : ids) {
    HETERO_CHECK(id >= 0 && id < description().vocabulary, ValueError)
        << "token " << id << ": the model's are 0 to " << description().vocabulary - 1;
  }
  ids.resize(static_cast<size_t>(chunk.rows), 0);
  const auto past = static_cast<int32_t>(chunk.past);
  const auto last = static_cast<int32_t>(count - 1);
  SetBytes(step.ids, ids.data(), ids.size() * sizeof(int64_t));
  SetBytes(past_, &past, sizeof(past));
  SetBytes(last_, &last, sizeof(last));
  const std::vector<ffi::AnyView> arguments(step.arguments.begin(), step.arguments.end());
  // A second call writes the same rows of the caches again.
  logits_ = FirstOf(WholeCall(Context::Get(), step.function, arguments.data(),
                              static_cast<int32_t>(arguments.size())));
}

std::vector<float> LanguageModel::Logits() const {
  HETERO_CHECK(logits_.defined(), ValueError) << "no step was made yet";
  const auto count = static_cast<size_t>(description().vocabulary);
  const DLDataType dtype = logits_.dtype();
  const bool is_half = dtype.bits == 16;
  HETERO_CHECK(dtype.code == kDLFloat && dtype.lanes == 1 && (is_half || dtype.bits == 32),
               ValueError)
      << "logits of type " << ffi::DLDataTypeToString(dtype) << "; float32 and float16 are read";
  const size_t bytes = count * (dtype.bits / 8U);
  HETERO_CHECK(ffi::GetDataSize(logits_) == bytes, ValueError)
      << "logits of " << ffi::GetDataSize(logits_) << " bytes for " << count << " tokens";
  std::vector<float> logits(count);
  std::vector<uint16_t> halves(is_half ? logits.size() : 0);
  void* const to = is_half ? static_cast<void*>(halves.data()) : logits.data();
  Imported("runtime.TVMTensorCopyToBytes")(logits_, to, static_cast<int64_t>(bytes));
  if (is_half) std::transform(halves.begin(), halves.end(), logits.begin(), FloatFromHalf);
  return logits;
}

namespace {

/*! \brief Chunks as a caller elsewhere packs them: rows, past, count, then so many tokens. */
std::vector<Chunk> Unpack(const ffi::Bytes& bytes) {
  HETERO_CHECK(bytes.size() % sizeof(int64_t) == 0, ValueError) << "chunks are whole numbers";
  std::vector<int64_t> words(bytes.size() / sizeof(int64_t));
  std::memcpy(words.data(), bytes.data(), bytes.size());
  std::vector<Chunk> chunks;
  for (size_t at = 0; at < words.size();) {
    HETERO_CHECK(words.size() - at >= 3, ValueError) << "a chunk is cut short";
    const int64_t count = words[at + 2];
    const size_t left = words.size() - at - 3;
    HETERO_CHECK(count >= 0 && static_cast<uint64_t>(count) <= left, ValueError)
        << "a chunk is cut short";
    const auto begin = words.begin() + static_cast<int64_t>(at) + 3;
    chunks.push_back({words[at], words[at + 1], {begin, begin + count}});
    at += 3 + static_cast<size_t>(count);
  }
  HETERO_CHECK(!chunks.empty(), ValueError) << "no chunk";
  return chunks;
}

/*! \brief Milliseconds of each chunk, until all devices are done, as JSON. */
ffi::String Measure(LanguageModel* model, const std::vector<Chunk>& chunks) {
  ffi::Array<ffi::Any> times;
  for (const Chunk& chunk : chunks) {
    const auto begin = std::chrono::steady_clock::now();
    model->Step(chunk);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    times.push_back(took.count());
  }
  return ffi::json::Stringify(times);
}

/*! \brief RecordRuns of `chunks`; a second run writes the same rows of the caches again. */
ffi::String Record(LanguageModel* model, const std::vector<Chunk>& chunks, int64_t runs,
                   int64_t events_per_thread) {
  return RecordRuns(model->machine(), runs, events_per_thread, [&] {
    for (const Chunk& chunk : chunks) {
      Noted(model->FunctionOf(chunk.rows), [&] { model->Step(chunk); });
    }
  });
}

ffi::Bytes Take(LanguageModel* model, const std::vector<Chunk>& chunks, bool is_wanted) {
  for (const Chunk& chunk : chunks) model->Step(chunk);
  if (!is_wanted) return {};
  const std::vector<float> logits = model->Logits();
  return {reinterpret_cast<const char*>(logits.data()), logits.size() * sizeof(float)};
}

/*!
 * \brief The artefact at `path` as a function of packed chunks, which it runs in their order.
 *
 * (chunks, whether they are wanted) gives the logits behind the last one as bytes (float32), or
 * none; (chunks, "measure") their times; (chunks, "record", runs, events for each thread) a
 * recording.
 */
ffi::Function OpenForCaller(const ffi::String& path) {
  const auto model = std::make_shared<LanguageModel>(std::string(path));
  return Shielded(ffi::Function::FromPacked([model](ffi::PackedArgs args, ffi::Any* result) {
    HETERO_CHECK(args.size() == 2 || args.size() == 4, TypeError) << "two or four arguments";
    const std::vector<Chunk> chunks = Unpack(args[0].cast<ffi::Bytes>());
    const auto what = args[1].try_cast<ffi::String>();
    if (!what.has_value()) {
      *result = Take(model.get(), chunks, args[1].cast<bool>());
    } else if (*what == "measure") {
      *result = Measure(model.get(), chunks);
    } else {
      HETERO_CHECK(*what == "record" && args.size() == 4, ValueError) << "measure, or record";
      *result = Record(model.get(), chunks, args[2].cast<int64_t>(), args[3].cast<int64_t>());
    }
  }));
}

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() { GlobalNames().Typed("hetero_tvm.language_model", OpenForCaller); }

}  // namespace hetero_tvm::runtime
