// C++: handles that close themselves, and refusals as exceptions, in a few lines.
#include <zspool.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct refused : std::runtime_error {
    zsp_status status;
    explicit refused(zsp_status status) : std::runtime_error(zsp_error_message()), status(status) {}
};

static void check(zsp_status status)
{
    if (status != ZSP_OK)
        throw refused(status);
}

template <class T, zsp_status (*close)(T *)>
struct closing {
    void operator()(T *handle) const { close(handle); }
};
template <class T, zsp_status (*close)(T *)>
using owned = std::unique_ptr<T, closing<T, close>>;
using pool_handle = owned<zsp_pool, zsp_pool_close>;

class pool {
    pool_handle handle;

public:
    explicit pool(uint64_t limit_bytes)
    {
        zsp_pool_options options = {};
        options.size = sizeof options;
        options.limit_bytes = limit_bytes;
        zsp_pool *made;
        check(zsp_pool_new(&options, &made));
        handle.reset(made);
    }

    uint64_t insert(const std::string &bytes)
    {
        uint64_t object;
        check(zsp_pool_insert(handle.get(), bytes.data(), bytes.size(), &object));
        return object;
    }

    void remove(uint64_t object) { check(zsp_pool_remove(handle.get(), object)); }

    // An object being looked at.
    class view {
        zsp_view held;

    public:
        view(const pool &of, uint64_t object) { check(zsp_pool_view(of.handle.get(), object, &held)); }
        view(view &&other) : held(other.held) { std::memset(&other.held, 0, sizeof other.held); }
        view(const view &) = delete;
        view &operator=(const view &) = delete;
        ~view() { zsp_view_release(&held); }
        std::string text() const { return std::string(static_cast<const char *>(held.bytes), held.length); }
    };

    view look(uint64_t object) const { return view(*this, object); }
};

int main()
{
    pool objects(1 << 20);
    std::vector<uint64_t> handles;
    for (int k = 0; k < 1000; k++)
        handles.push_back(objects.insert("object " + std::to_string(k)));
    pool::view kept = objects.look(handles[7]);
    for (int k = 0; k < 1000; k++) {
        if (objects.look(handles[k]).text() != "object " + std::to_string(k))
            return 1;
        objects.remove(handles[k]);
    }
    if (kept.text() != "object 7")
        return 1;
    try {
        objects.look(handles[3]);
        return 1;
    } catch (const refused &error) {
        if (error.status != ZSP_ESTALE || std::strstr(error.what(), "was removed before") == nullptr)
            return 1;
    }
    std::puts("every handle was closed");
    return 0;
}
