/*!
 * \file c_api/cpu_machine.cc
 * \brief The virtual machine's functions over one call of ONNX Runtime.
 */
#include "cpu_machine.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/container/array.h>

#include <cstring>
#include <optional>
#include <utility>

#include "../border.h"
#include "../check.h"
#include "../imported.h"
#include "machine.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr const char* kPrefix = "whole_";  // as in hetero_tvm/fallback.py

std::vector<ffi::Tensor> NewTensors(const std::vector<BorderTensor>& specs) {
  std::vector<ffi::Tensor> tensors;
  tensors.reserve(specs.size());
  for (const BorderTensor& spec : specs) tensors.push_back(NewTensor(spec, kCpu));
  return tensors;
}

void Copy(const DLTensor& from, const BorderTensor& spec, const ffi::Tensor& to) {
  bool fits = from.device.device_type == kDLCPU && from.dtype.code == spec.dtype.code &&
              from.dtype.bits == spec.dtype.bits &&
              from.ndim == static_cast<int32_t>(spec.shape.size()) && ffi::IsContiguous(from);
  for (int32_t i = 0; fits && i < from.ndim; ++i) {
    fits = from.shape[i] == spec.shape[static_cast<size_t>(i)];
  }
  HETERO_CHECK(fits, ValueError) << "input " << spec.name << ": not the model's " << spec.dtype_name
                                 << ", its shape, or not the CPU's";
  std::memcpy(to.data_ptr(), static_cast<const char*>(from.data) + from.byte_offset, spec.bytes);
}

ffi::Any Given(const std::vector<ffi::Tensor>& outputs) {
  if (outputs.size() == 1) return outputs.front();
  return ffi::Array<ffi::Tensor>(outputs.begin(), outputs.end());
}

}  // namespace

CpuMachine::CpuMachine(ffi::Module code, const std::vector<Program>& programs)
    : code_(std::move(code)) {
  for (const Program& program : programs) {
    programs_.emplace(program.function, One{program,
                                            FunctionOf(code_, kPrefix + program.function),
                                            NewTensors(program.inputs),
                                            {}});
  }
}

CpuMachine::One& CpuMachine::Find(const std::string& name) {
  const auto found = programs_.find(name);
  HETERO_CHECK(found != programs_.end(), ValueError) << "no function " << name << " in it";
  return found->second;
}

void CpuMachine::SetInputs(One* one, ffi::PackedArgs args, int32_t first) {
  const std::vector<BorderTensor>& specs = one->program.inputs;
  HETERO_CHECK(static_cast<size_t>(args.size() - first) == specs.size(), ValueError)
      << args.size() - first << " inputs given, the model takes " << specs.size();
  for (size_t i = 0; i < specs.size(); ++i) {
    Copy(*args[first + static_cast<int32_t>(i)].cast<DLTensor*>(), specs[i], one->inputs[i]);
  }
}

void CpuMachine::Invoke(One* one) {
  std::vector<ffi::Tensor> outputs = NewTensors(one->program.outputs);  // earlier ones are others'
  std::vector<ffi::AnyView> arguments(one->inputs.begin(), one->inputs.end());
  arguments.insert(arguments.end(), outputs.begin(), outputs.end());
  ffi::Any nothing;
  one->whole.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &nothing);
  one->outputs = std::move(outputs);
}

ffi::Optional<ffi::Function> CpuMachine::GetFunction(const ffi::String& name) {
  return AtBorder([&]() -> ffi::Optional<ffi::Function> {
    const auto self = ffi::GetObjectPtr<CpuMachine>(this);
    const auto packed = [](auto body) {
      return Shielded(ffi::Function::FromPacked(std::move(body)));
    };
    if (programs_.count(std::string(name)) != 0) {
      return packed([self, one = &Find(std::string(name))](ffi::PackedArgs args, ffi::Any* result) {
        SetInputs(one, args, 0);
        Invoke(one);
        *result = Given(one->outputs);
      });
    }
    const auto named = [self](ffi::PackedArgs args) -> One& {
      HETERO_CHECK(args.size() > 0, TypeError) << "say which function";
      return self->Find(std::string(args[0].cast<ffi::String>()));
    };
    if (name == "vm_load_executable") {
      return packed([self](ffi::PackedArgs, ffi::Any* result) { *result = ffi::Module(self); });
    }
    if (name == "vm_initialization") return packed([self](ffi::PackedArgs, ffi::Any*) {});
    if (name == "set_input") {
      return packed([named](ffi::PackedArgs args, ffi::Any*) { SetInputs(&named(args), args, 1); });
    }
    if (name == "invoke_stateful") {
      return packed([named](ffi::PackedArgs args, ffi::Any*) { Invoke(&named(args)); });
    }
    if (name == "get_output_arity") {  // of the result, or of a member, which is a tensor: -1
      return packed([named](ffi::PackedArgs args, ffi::Any* result) {
        const size_t count = named(args).program.outputs.size();
        *result = args.size() > 1 || count == 1 ? int64_t{-1} : static_cast<int64_t>(count);
      });
    }
    if (name == "get_output") {
      return packed([named](ffi::PackedArgs args, ffi::Any* result) {
        const std::vector<ffi::Tensor>& outputs = named(args).outputs;
        const auto at = args.size() > 1 ? static_cast<size_t>(args[1].cast<int64_t>()) : size_t{0};
        HETERO_CHECK(at < outputs.size(), ValueError) << "no output " << at << " yet";
        *result = outputs[at];
      });
    }
    // TVM's Python looks these up when it wraps a machine; nobody calls them here.
    for (const char* other : {"invoke_closure", "save_function", "get_function_arity",
                              "get_function_param_name", "set_instrument"}) {
      if (name != other) continue;
      return packed(
          [](ffi::PackedArgs, ffi::Any*) {
            TVM_FFI_THROW(ValueError)
                << "a fallback on the CPU is one call: there is nothing in it to be recorded";
          });
    }
    return std::nullopt;
  });
}

}  // namespace hetero_tvm::runtime
