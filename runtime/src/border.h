/*!
 * \file border.h
 * \brief How errors leave this library where TVM's code, not Python's, is the caller.
 *
 * TVM calls virtual functions of ours, and function objects, as C++: what they throw runs through
 * its frames. That only works where both were built with one C++ library. A cross-built runtime has
 * LLVM's, TVM's wheels have GNU's, and there the process would die. So nothing is thrown across:
 * our side catches and leaves the error with tvm-ffi, and TVM's own code throws it.
 */
#ifndef HETERO_TVM_RUNTIME_BORDER_H_
#define HETERO_TVM_RUNTIME_BORDER_H_

#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

#include <new>
#include <string>
#include <type_traits>
#include <utility>

namespace hetero_tvm::runtime {

/*! \brief `function` as it may be called from another library than its own, either way. */
inline tvm::ffi::Function Shielded(tvm::ffi::Function function) {
  namespace ffi = tvm::ffi;
  // A function made from C entry points has no C++ one: its callers throw by themselves.
  const auto call = [](void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
    const auto& inner = *static_cast<ffi::Function*>(self);
    ffi::Any fresh;  // what the caller gave may hold an earlier result
    const int code = TVMFFIFunctionCall(
        ffi::details::ObjectUnsafe::TVMFFIObjectPtrFromObjectRef(inner),
        const_cast<TVMFFIAny*>(args), count, reinterpret_cast<TVMFFIAny*>(&fresh));
    if (code == 0) *reinterpret_cast<ffi::Any*>(result) = std::move(fresh);
    return code;
  };
  return ffi::Function::FromExternC(new ffi::Function(std::move(function)), call,
                                    [](void* self) { delete static_cast<ffi::Function*>(self); });
}

/*! \brief Let tvm-ffi throw the error that was left with it. */
[[noreturn]] void ThrowFromTvm();

/*! \brief Run `body`; 0, or -1 with the error left with tvm-ffi. */
template <typename Body>
[[gnu::noinline]] int Caught(Body& body) noexcept {
  TVM_FFI_SAFE_CALL_BEGIN();
  body();
  TVM_FFI_SAFE_CALL_END();
}

/*! \brief Move `kept` out and destroy what is left. */
template <typename Result>
[[gnu::noinline]] Result Taken(Result* kept) noexcept {
  Result result(std::move(*kept));
  kept->~Result();
  return result;
}

/*!
 * \brief What a virtual function that TVM calls does: `return AtBorder([&] { ... });`
 *
 * The frames between TVM's caller and ThrowFromTvm() must have nothing to clean up, not even on
 * another path: a frame that has asks its own C++ library for help. So the result lies in plain
 * bytes, `body` captures references only, and catching and destroying are functions of their own.
 */
template <typename Body>
auto AtBorder(Body body) {
  static_assert(std::is_trivially_destructible_v<Body>, "capture by reference");
  using Result = decltype(body());
  if constexpr (std::is_void_v<Result>) {
    if (Caught(body) != 0) ThrowFromTvm();
  } else {
    alignas(Result) unsigned char bytes[sizeof(Result)];
    auto keep = [&] { new (bytes) Result(body()); };
    if (Caught(keep) != 0) ThrowFromTvm();
    return Taken(std::launder(reinterpret_cast<Result*>(bytes)));
  }
}

/*! \brief Gives functions global names, as tvm-ffi's GlobalDef does, shielded. */
class GlobalNames {
 public:
  template <typename Callable>
  GlobalNames& Typed(const char* name, Callable&& callable) {
    return Add(name, tvm::ffi::Function::FromTyped(std::forward<Callable>(callable), name));
  }
  template <typename Callable>
  GlobalNames& Packed(const char* name, Callable&& callable) {
    return Add(name, tvm::ffi::Function::FromPacked(std::forward<Callable>(callable)));
  }

 private:
  GlobalNames& Add(const char* name, tvm::ffi::Function function) {
    tvm::ffi::Function::SetGlobal(name, Shielded(std::move(function)), /*override=*/false);
    return *this;
  }
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_BORDER_H_
